"""Progress on long work, on stderr."""

import sys

_SECONDS = 1.0
"""Between two pictures of a bar; a notebook without widgets keeps every one as an output."""

_SHOWN = {"nats": (-1, 2), "bits per dimension": (1, 4)}
"""How a loss is shown in units: its sign, and digits."""


class Progress:
    """Progress line on stderr: tqdm's where it is installed, else one line a record.

    Nothing is shown unless verbose. Nats are shown as what is gained, bits as what is lost.
    """

    def __init__(self, n_steps, verbose, name, unit="nats"):
        self.n_steps, self.verbose, self.name, self.bar = n_steps, verbose, name, None
        self.unit = unit

    def __enter__(self):
        if self.verbose:
            try:
                from tqdm.auto import tqdm

                self.bar = tqdm(
                    total=self.n_steps,
                    desc=self.name,
                    unit="step",
                    file=sys.stderr,
                    mininterval=_SECONDS,
                    miniters=1,
                )
            except ImportError:
                pass
        return self

    def __exit__(self, *exception):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, state):
        """Show where the training stands."""
        if not self.verbose:
            return
        sign, digits = _SHOWN[self.unit]
        loss, held_out = (sign * state.history[name][-1] for name in ("loss", "validation_loss"))
        text = f"{self.unit} {loss:.{digits}f}"
        text += "" if held_out != held_out else f", held out {held_out:.{digits}f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(state.step - self.bar.n)
        else:
            sys.stderr.write(f"{self.name}: step {state.step} of {self.n_steps}, {text}\n")

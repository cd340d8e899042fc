"""Training and validation losses over the steps of a fit."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .panels import panels


class HistoryDisplay:
    """Curves of a training: nats a row that are lost, lower is better.

    Parameters
    ----------
    history : dict of list of float
        As `history_` of an estimator: "step", "loss" and "validation_loss", which may be NaN.
    unit : str, default="nats per row"
        What the losses are in, for the axis.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
    lines_ : list of Line2D
        Of the training, and of the validation if there was one.
    """

    def __init__(self, history, unit="nats per row"):
        self.history, self.unit = history, unit

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of this package
        ax : matplotlib Axes, optional

        Returns
        -------
        HistoryDisplay
        """
        check_is_fitted(estimator)
        unit = getattr(estimator, "_loss_unit", "nats")
        return cls(estimator.history_, "nats per row" if unit == "nats" else unit).plot(ax)

    @classmethod
    def from_predictions(cls, history, *, ax=None):
        """Draw a history that was kept.

        Parameters
        ----------
        history : dict of list of float
        ax : matplotlib Axes, optional

        Returns
        -------
        HistoryDisplay
        """
        return cls(history).plot(ax)

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        missing = {"step", "loss"} - set(self.history)
        if missing:
            raise ValueError(
                f"history expects 'step' and 'loss', but it has {sorted(self.history)}. Give "
                "history_ of an estimator."
            )
        figure, [panel] = panels(ax, 1, (6, 4))
        step, self.lines_ = np.asarray(self.history["step"]), []
        for name, label in (("loss", "training"), ("validation_loss", "validation")):
            loss = np.asarray(self.history.get(name, ()), dtype=float)
            if np.isfinite(loss).any():
                self.lines_ += panel.plot(step, loss, ".-", label=label)
        panel.set(xlabel="step", ylabel=f"loss, {self.unit}")
        _leave_out_the_start(panel, [line.get_ydata() for line in self.lines_])
        best = panel.lines[-1].get_ydata()
        panel.axvline(step[np.nanargmin(best)], color="0.8", zorder=0, label="lowest")
        panel.legend(frameon=False)
        panel.grid(alpha=0.3)
        self.figure_, self.ax_ = figure, panel
        return self


def _leave_out_the_start(panel, curves):
    """Cut off the first losses, where they are so high that one sees nothing else."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    low, middle, top = np.percentile(values, [0, 75, 100])
    most = low + 4 * (middle - low)
    if len(values) > 4 and most < top:
        panel.set_ylim(low - 0.1 * (most - low), most)

"""A fit succeeds or changes nothing."""

from contextlib import contextmanager


@contextmanager
def all_or_nothing(estimator):
    """Leave the estimator as it was if its fit fails."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise

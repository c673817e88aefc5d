"""What a monitor found, in a few plain sentences."""

from collections.abc import Sequence

from ...noise.estimate import SMALLEST
from .judgement import Judgement, Reading

__all__ = ["verdict"]


def verdict(readings: Sequence[Reading], epochs: int) -> str:
    """Return whether it memorises, since when, which epoch to keep, and whether to stop.

    Parameters
    ----------
    readings : sequence of Reading
        All so far.
    epochs : int
        How many epochs have ended.
    """
    if not readings:
        return "No epoch has been read yet."
    trained = f"After {epochs} epochs" if epochs > 1 else "After one epoch"
    judged = Judgement(readings)
    kept, when, end = judged.recommended, judged.alarm, judged.stop
    if judged.reference.hopeless:
        return (
            f"{trained} no layer predicts the labels better than by chance. Either it is too "
            "early, or the labels do not belong to these inputs."
        )
    if when is not None:
        memory = f"The network has been memorising wrong labels since epoch {when.epoch}."
    else:
        memory = f"{trained} nothing shows that the network memorises wrong labels."
    if judged.noise.rate < SMALLEST:
        wrong = "Few labels, if any, look wrong."
    else:
        wrong = f"About {judged.noise.rate:.0%} of the labels look wrong."
    if end is not None:
        keep = f"Keep epoch {kept.epoch}; training may stop."
    elif kept.epoch == readings[-1].epoch:
        keep = f"Epoch {kept.epoch}, the last, is the best so far: go on."
    else:
        keep = f"Keep epoch {kept.epoch} so far; nothing says yet that training should stop."
    return f"{memory} {wrong} {keep}"

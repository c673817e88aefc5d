"""S1's and S2's results as text tables, and the curves that their figure draws."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .catalogue import EXPERIMENTS, SEQUEL
from .dynamics import CURVE, NETWORK, TRANSFERRED, peaks
from .plan import Plan
from .shown import Shown, plus_minus
from .tables import probe_name

__all__ = ["curves", "rise_and_fall", "shown_dynamics"]


def shown_dynamics(plan: Plan, dynamics: pd.DataFrame, *, epochs: bool = False) -> list[Shown]:
    """Return tables of where each curve begins, is highest and ends, for S1 and S2 if asked for.

    Accuracies are in per cent: mean ± standard deviation over runs.

    Parameters
    ----------
    plan : Plan
        The experiments and degrees to show.
    dynamics : pandas.DataFrame
        From `dynamics_table`.
    epochs : bool
        Also show the main curves epoch by epoch.
    """
    asked = dynamics[dynamics["corruption"].isin(plan.corruptions)]
    if not len(asked):
        return []
    ends = peaks(asked)
    wanted = [name for name in ("S1", "S2") if name in plan.only]
    shown = [_ends(plan, name, ends[ends["experiment"] == name]) for name in wanted]
    if epochs and wanted:
        shown += [_epochs(degree, rows) for degree, rows in asked.groupby("corruption")]
    return shown


def _ends(plan: Plan, name: str, ends: pd.DataFrame) -> Shown:
    columns = ["c", "layer", "probe", "before training", "best (oracle)", "at epoch", "at the end"]
    columns += ["at epoch"]
    published = name == "S2" and any(pair == plan.experiment for pair, _ in SEQUEL)
    if published:
        columns += ["published best", "at epoch", "published end"]
    rows = []
    for key, runs in ends.groupby(CURVE, dropna=False, sort=False):
        about = dict(zip(CURVE, key, strict=True))
        values = [plus_minus(runs[part].mean(), runs[part].std()) for part in _PARTS]
        epochs = [", ".join(map(str, runs[part])) for part in ("best_epoch", "end_epoch")]
        if about["layer"] == "input":  # read once, as it never changes
            epochs = ["", ""]
        row = [f"{about['corruption']:g}", str(about["layer"]), _words(about)]
        row += [values[0], values[1], epochs[0], values[2], epochs[1]]
        if published:
            theirs = SEQUEL.get((plan.experiment, float(str(about["corruption"]))))
            numbers = [] if theirs is None else [theirs.best, theirs.epoch, theirs.end]
            row += [f"{100 * n:.1f}" if isinstance(n, float) else str(n) for n in numbers]
            row += [""] * (len(columns) - len(row))
        rows.append(row)
    title = f"{name}: {EXPERIMENTS[name]}; test accuracy, %"
    if published:
        title += ". Published: of the authors' own networks and training"
    return Shown(title, columns, rows)


_PARTS = ("before", "best", "end")


def _words(about: dict[str, Any]) -> str:
    if about["model"] == TRANSFERRED:
        return f"velpic in the read-out, bias {about['bias']}"
    if about["probe"] == "model":
        return "the network itself"
    return probe_name(str(about["probe"]), about["variance"])


def _epochs(degree: Any, rows: pd.DataFrame) -> Shown:
    lines = {name: table.set_index("epoch") for name, table in curves(rows).items()}
    epochs = sorted({epoch for table in lines.values() for epoch in table.index})
    body = []
    for epoch in epochs:
        cells = []
        for table in lines.values():
            here = table.loc[epoch] if epoch in table.index else {}
            cells.append(plus_minus(here.get("mean"), here.get("sd")))
        body.append([f"{epoch:g}", *cells])
    title = f"S1 and S2 by epoch, c = {degree:g}, accuracy, %"
    return Shown(title, ["epoch", *lines], body)


def curves(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the main curves of one corruption degree, by what they are called.

    Parameters
    ----------
    rows : pandas.DataFrame
        The degree's rows of `dynamics_table`.

    Returns
    -------
    dict of str to pandas.DataFrame
        Columns `epoch`, `mean` and `sd` over runs (NaN for one). Epochs are those at which all
        runs were read; the mean of their ends follows, at the mean of their last epochs. The best
        layer of a probe has the highest mean accuracy of all layers and epochs: an oracle.
    """
    return {name: _over_runs(curve) for name, curve in _main(rows)}


def _main(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    own = rows[rows["probe"] == "model"]
    yield "the network, training labels", own[own["split"] == "train"]
    yield "the network", own[own["split"] == "test"]
    for probe, name in (("masc", "MASC"), ("velpic", "VeLPIC")):
        layers = rows[
            (rows["probe"] == probe) & (rows["model"] == NETWORK) & (rows["layer"] != "input")
        ]
        if len(layers):
            means = layers.groupby(["layer", "epoch"], sort=False)["accuracy"].mean().reset_index()
            best = str(means["layer"].iloc[int(means["accuracy"].argmax())])
            yield f"{name} on {best}, its best layer (oracle)", layers[layers["layer"] == best]
    written = rows[(rows["model"] == TRANSFERRED) & (rows["bias"] == "zero")]
    if len(written):
        yield "VeLPIC written into the read-out", written


def _over_runs(curve: pd.DataFrame) -> pd.DataFrame:
    by_epoch = curve.groupby("epoch")["accuracy"].agg(["mean", "std", "count"]).reset_index()
    shared = by_epoch[by_epoch["count"] == curve["run"].nunique()]
    last = curve.loc[curve.groupby("run")["epoch"].idxmax()]
    end = pd.DataFrame(
        {
            "epoch": [float(last["epoch"].mean())],
            "mean": [last["accuracy"].mean()],
            "std": [last["accuracy"].std()],
        }
    )
    both = pd.concat([shared[["epoch", "mean", "std"]], end]).drop_duplicates("epoch", keep="last")
    return both.rename(columns={"std": "sd"}).sort_values("epoch").reset_index(drop=True)


def rise_and_fall(dynamics: pd.DataFrame) -> str | None:
    """Return a sentence on the transfer that falls most from its best epoch to the end."""
    if not len(dynamics):
        return None
    ends = peaks(dynamics)
    written = ends[(ends["model"] == TRANSFERRED) & (ends["bias"] == "zero")]
    means = written.groupby("corruption")[["best", "best_epoch", "end"]].mean().reset_index()
    degree, best, epoch, end = (
        float(value) for value in means.iloc[int((means["best"] - means["end"]).argmax())]
    )
    itself = ends[(ends["probe"] == "model") & (ends["corruption"] == degree)]["end"].mean()
    return (
        f"Along training at c = {degree:g}, VeLPIC written into the read-out gets "
        f"{100 * best:.1f}% of the test labels at its best epoch, {epoch:.0f} (an oracle’s "
        f"choice), and {100 * end:.1f}% at the end, where the network itself gets "
        f"{100 * itself:.1f}%."
    )

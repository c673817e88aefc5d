"""The result of `decode`: to look at, to report, to save, and to load again."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .activations.copies import weights_of
from .activations.given_model import as_module
from .errors import ModelError
from .repair.earlier import load_again
from .results.exchange.exports import Exports
from .results.run_folder import RunParts, is_run, read_run, write_run
from .utils.files import fresh_folder
from .utils.hints import DECODING
from .utils.near_names import missing_attribute, with_argument_hints


class Decoding(Exports):
    """The result of `decode`.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per network (``model``: ``trained`` or its ``random`` twin) × layer × probe ×
        variance share × subspace labels × split × kind of label, with ``rank`` (mean over
        classes), ``n``, ``accuracy`` (0 to 1) and ``selected``. The network's own read-out is the
        probe ``model`` of the layer ``output``.
    best : Decoder
        The decoder chosen without clean labels.
    candidates : pandas.DataFrame or None
        The candidates for the best decoder, one row each: ``round`` (0: fitted to the given
        labels), ``layer``, ``n_features``, ``ridge``, ``criterion`` (the larger, the better),
        ``chosen``, and ``test_accuracy``, which plays no part in the choice. None with
        ``auto=False``.
    geometry : pandas.DataFrame or None
        Sizes of the class subspaces of the trained network's layers, and the angles between them;
        see `underscript.geometry.geometry`. None without MASC among the probes.
    """

    # Hidden from type checkers, which otherwise allow any attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name):
            return missing_attribute(self, name, DECODING)

    def _repr_html_(self) -> str:
        """Return the figure and the table, for a notebook."""
        from .report import notebook  # matplotlib takes a while to import

        self.complete()
        return notebook(self)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one offline HTML file.

        Raises
        ------
        OutputError
            If it cannot be written; nothing is left then.
        """
        from .report import write_report  # matplotlib takes a while to import

        self.complete()
        write_report(Path(path), self)

    def save(self, folder: str | os.PathLike[str], *, network: bool = True) -> None:
        """Write a run folder, whole or not at all; an earlier run there is replaced.

        Parameters
        ----------
        folder : path
            A new folder, or an earlier run's.
        network : bool
            Keep the network with the decoder, as a list of torch's operators and their weights:
            then a loaded run predicts without the model's class. Where that is not possible,
            ``summary["recorded"]`` says why.

        Raises
        ------
        OutputError
            If the folder exists and is not a run, or cannot be written.
        """
        with fresh_folder(Path(folder), is_run) as work:
            self.write_into(work, Path(folder), network=network)

    def write_into(self, folder: Path, final: Path, *, network: bool = True) -> None:
        """Write the files of a run into an existing folder, which will be named `final`."""
        self.complete()
        self.summary["written_to"] = str(final)
        run = RunParts(
            self.table,
            self.summary,
            self.best,
            self._issues(),
            self.candidates,
            self.geometry,
            self.examples,
            self._read_out(),
        )
        write_run(run, folder, network=network)
        self.report(folder / "report.html")


@with_argument_hints({"path": "use folder=", "network": "use model="})
def load(
    folder: str | os.PathLike[str], model: nn.Module | None = None, checkpoints: Any = None
) -> Decoding:
    """Read a run folder.

    Parameters
    ----------
    folder : path
        Written by `Decoding.save` or the command line.
    model : torch.nn.Module, optional
        The network. Without it `Decoding.best` predicts with what was kept of the network in the
        run; the methods that change the network need it.
    checkpoints : path, str, sequence or mapping, optional
        The checkpoints that were decoded together with it, as `decode` takes them: where the
        decoder reads some, its module and its export need them beside the network.

    Returns
    -------
    Decoding

    Raises
    ------
    OutputError
        If the folder is not a run, is damaged, or is of a newer format.
    ModelError
        If the model or a checkpoint has other weights than what was decoded, or there are
        checkpoints but no model.
    """
    if checkpoints is not None and model is None:
        raise ModelError("checkpoints: they are those of a model; expected one, found none")
    if model is not None:
        model = as_module(model)
    decoding = Decoding(*read_run(Path(folder), model))
    # It may have been moved since it was written.
    decoding.summary["written_to"] = str(folder)
    weights = decoding.summary["model"].get("weights")
    if model is not None and weights is not None and weights_of(model).hex() != weights:
        raise ModelError(
            f"{folder}: this {type(model).__name__} has other weights than the network that was "
            "decoded; load those first (network.load_state_dict, --weights), in the same precision"
        )
    best, known = decoding.best, decoding.summary.get("checkpoints")
    if model is not None and checkpoints is not None and best.steps and known is not None:
        best.together = load_again(model, checkpoints, best.steps, known)
    return decoding

"""What a decoding gives to other tools; each package is imported when it is asked for."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ..run import Run


class Exports(Run):
    """A run whose label issues can be taken to other tools."""

    def _as_table(self) -> tuple[pd.DataFrame, list[str] | None, int]:
        """Return the label issues, the names of the classes, and how many classes there are."""
        model = self.summary["model"]
        return self._issues(), model["class_names"], int(model["n_classes"])

    def to_cleanlab(self) -> pd.DataFrame:
        """Return the label issues as cleanlab's Datalab gives them; cleanlab is not needed.

        Returns
        -------
        pandas.DataFrame
            The columns of Datalab's ``get_issues("label")``, one row a sample, in the order of
            `label_issues` and with its index:

            - `is_label_issue`, bool;
            - `label_score`, float64, 0 to 1: `label_quality`;
            - `given_label` and `predicted_label`: class names, or class numbers without names.
              Of classes with the same name each but the first has its number added.
        """
        from .for_cleanlab import as_cleanlab

        return as_cleanlab(*self._as_table())

    def to_datasets(self, dataset: Any = None) -> Any:
        """Return the label issues as a Hugging Face data set, or as columns of yours.

        It needs the extra ``datasets``.

        Parameters
        ----------
        dataset : datasets.Dataset, optional
            The training data, one row for each sample in the order of `label_issues`. It stays as
            it is.

        Returns
        -------
        datasets.Dataset
            `dataset` with these columns, or these alone:

            - `sample_index`, int64: the index of `label_issues`;
            - `label_issue`, bool; `label_quality`, float64, 0 to 1;
            - `given_label` and `predicted_label`: ClassLabel, or int64 without class names. Of
              classes with the same name each but the first has its number added;
            - `predicted_confidence`, float64: `confidence`;
            - `conflicting_duplicate`, int64: another sample's `sample_index`, or −1.

        Raises
        ------
        DataError
            If `dataset` is no `datasets.Dataset`, has another number of rows, or has a column with
            one of these names.
        PackageError
            If the package is not installed.
        """
        from .for_datasets import as_datasets

        return as_datasets(*self._as_table(), dataset)

    def to_label_studio(
        self,
        path: str | os.PathLike[str],
        data: Any,
        *,
        kind: str = "image",
        flagged_only: bool = True,
    ) -> str:
        """Write flagged samples as tasks of Label Studio, the worst first.

        Each task has the sample, its `sample_index`, `given_label`, `label_quality` and
        `is_label_issue` as fields, and the decoder's label as a prediction with its confidence as
        the score. The given label is no annotation: Label Studio would take the task for done.

        Parameters
        ----------
        path : path
            The ``.json`` file of tasks to write. A file with the same name and the suffix ``.xml``
            beside it gets the labelling configuration. Earlier files are replaced.
        data : iterable of str or path, or mapping
            What Label Studio shows of each sample: a URL, a path under which it serves the file, or
            a text. One for each sample in the order of `label_issues`, or a mapping from the
            data set's index.
        kind : {"image", "text", "audio", "video", "html"}
            What `data` hold.
        flagged_only : bool
            Whether to leave out samples that are not flagged. Otherwise they follow. Where nothing
            is flagged the list of tasks is empty.

        Returns
        -------
        str
            The labelling configuration, XML. In class names, characters that XML cannot hold are
            �, and a $ that Label Studio would take for a field is ＄. Of classes with the same name
            each but the first has its number added.

        Raises
        ------
        DataError
            If `data` are not one text or path for each sample, or there is no such kind.
        OutputError
            If the name does not end in ``.json``, or the files cannot be written.
        """
        from .for_label_studio import write_label_studio

        table = self._as_table()
        return write_label_studio(Path(path), *table, data, kind=kind, flagged_only=flagged_only)

    def to_fiftyone(self, filepaths: Any, name: str | None = None) -> Any:
        """Return a FiftyOne data set of all samples; flagged ones have the tag ``label_issue``.

        It needs the extra ``fiftyone``.

        Parameters
        ----------
        filepaths : iterable of str or path, or mapping
            The file of each sample, in the order of `label_issues`, or a mapping from the data
            set's index.
        name : str, optional
            The data set's name; FiftyOne chooses one otherwise.

        Returns
        -------
        fiftyone.Dataset
            Each sample has `ground_truth` (the given label) and `prediction` (with `confidence`),
            both a Classification; `mistakenness`, 1 − `label_quality`; and `sample_index`, the
            index of `label_issues`. Labels are class names, or class numbers as text. Of classes
            with the same name each but the first has its number added.

        Raises
        ------
        DataError
            If there is not one path for each sample.
        OutputError
            If FiftyOne has such a data set already, or cannot make it; nothing is left then.
        PackageError
            If the package is not installed.
        """
        from .for_fiftyone import as_fiftyone

        return as_fiftyone(*self._as_table(), filepaths, name)

    def to_spotlight(self, data: Any = None) -> tuple[pd.DataFrame, list[Any]]:
        """Return a table of all samples and a list of issues for Renumics Spotlight.

        ``spotlight.show(table, issues=issues)`` shows them. It needs the extra ``spotlight``.

        Parameters
        ----------
        data : pandas.DataFrame or mapping of str to iterable, optional
            Columns that show a sample, such as file paths of pictures, one row for each sample in
            the order of `label_issues`.

        Returns
        -------
        table : pandas.DataFrame
            The columns of `data`, then `sample_index` (the index of `label_issues`),
            `is_label_issue`, `label_quality`, `given_label` and `predicted_label` (categories of
            class names, or of class numbers as text), `confidence` and `conflicting_duplicate`.
            Rows are numbered from 0. Of classes with the same name each but the first has its
            number added.
        issues : list of spotlight.DataIssue
            All flagged samples; those of each of the ten most frequent pairs of given and
            predicted class; samples with a duplicate that has another label. Empty if there are
            none.

        Raises
        ------
        DataError
            If `data` are no such columns, have another number of rows, or a column with one of
            these names.
        PackageError
            If the package is not installed.
        """
        from .for_spotlight import as_spotlight

        return as_spotlight(*self._as_table(), data)

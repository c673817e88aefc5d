"""Label issues under the names of cleanlab's Datalab."""

from collections.abc import Sequence

import pandas as pd

from .samples import class_texts, texts_of


def as_cleanlab(issues: pd.DataFrame, names: Sequence[str] | None, n_classes: int) -> pd.DataFrame:
    """Return label issues as Datalab's `get_issues("label")` gives them.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    names : sequence of str, or None
        The names of the classes.
    n_classes : int
        How many classes there are.
    """
    given, predicted = issues["given_label"], issues["predicted_label"]
    columns = {"given_label": given.to_numpy(), "predicted_label": predicted.to_numpy()}
    if names is not None:
        texts = class_texts(names, n_classes)
        columns = {name: texts_of(issues[name], texts) for name in columns}
    return pd.DataFrame(
        {
            "is_label_issue": issues["is_label_issue"].to_numpy(),
            "label_score": issues["label_quality"].to_numpy(),
            # Not objects: Datalab's columns have pandas' own type of text.
            **{name: pd.Series(values).infer_objects().array for name, values in columns.items()},
        },
        index=issues.index,
    )

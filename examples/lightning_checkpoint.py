"""A checkpoint that Lightning wrote, decoded without Lightning and without running code from it.

Run this file first: it writes `last.ckpt` as `trainer.save_checkpoint("last.ckpt")` does. Then

    underscript audit --model lightning_checkpoint.py:build --weights last.ckpt \
        --train lightning_checkpoint.py:train --out my-audit

In Python it is `us.decode(Classifier.load_from_checkpoint("last.ckpt").model, train())`.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import underscript as us


def build() -> nn.Module:
    """Return the network alone: what the LightningModule keeps as `self.model`."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def train() -> tuple[Tensor, Tensor]:
    images, true = load_digits(return_X_y=True)
    y = us.corrupt_labels(true[:1200], 0.4, seed=0)  # 36 % wrong
    return torch.tensor(images[:1200] / 8 - 1, dtype=torch.float32), torch.tensor(y)


class Classifier(nn.Module):  # yours: lightning.LightningModule
    def __init__(self) -> None:
        super().__init__()
        self.model = build()
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))


if __name__ == "__main__":
    torch.manual_seed(0)
    module, (x, y) = Classifier(), train()
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        module.loss(module.model(x), y).backward()
        optimiser.step()
    checkpoint = {
        "epoch": 120,
        "global_step": 120,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": module.state_dict(),  # model.0.weight, …, loss.weight
        "loops": {},
        "callbacks": {},
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 3e-3},
    }
    torch.save(checkpoint, "last.ckpt")

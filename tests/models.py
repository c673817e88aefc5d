"""Small networks that the tests share: one for each way in which a layer can surprise.

Every network takes inputs of shape (n, 12), or says which, and knows four classes. Weights depend
on `seed` alone. `MODELS` lets a test run over all of them.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from underscript.selection.budget import Shares

CLASSES = 4
WIDTH = 12

# Networks this small keep one thread busy; more of them only wait for each other, and on a busy
# machine that makes a test twenty times slower.


def mlp(width: int = WIDTH, classes: int = CLASSES) -> nn.Sequential:
    """fc1 → relu1 → fc2 → relu2 → readout, as modules of a plain Sequential with names."""
    net = nn.Sequential()
    net.add_module("fc1", nn.Linear(width, 16))
    net.add_module("relu1", nn.ReLU())
    net.add_module("fc2", nn.Linear(16, 10))
    net.add_module("relu2", nn.ReLU())
    net.add_module("readout", nn.Linear(10, classes))
    return net


class ResidualBlock(nn.Module):
    """Torchvision's basic block: one in-place ReLU called twice, one in-place addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResidualNet(nn.Module):
    """A stem and two residual blocks on images (n, 1, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(ResidualBlock(3), ResidualBlock(3))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.conv1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class FunctionalNet(nn.Module):
    """No activation is a module; the forward pass calls functions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 16)
        self.fc2 = nn.Linear(16, 10)
        self.readout = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        x = functional.relu(self.fc2(x))
        return self.readout(x)


class TransformerClassifier(nn.Module):
    """Tokens (n, 5) → two encoder layers → the mean over tokens → classes.

    `mask`, of the tokens' shape and true where there is a token, is optional.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        padding = None if mask is None else ~mask
        x = self.encoder(self.embed(input_ids), src_key_padding_mask=padding)
        if mask is None:
            return self.head(x.mean(1))
        weight = mask[..., None].to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1))


class AttentionNet(nn.Module):
    """nn.MultiheadAttention over three tokens of four values; its output is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 3, 4)
        mixed, _weights = self.attn(x, x, x)
        return self.head(self.norm(x + mixed).flatten(1))


class ConvOnlyNet(nn.Module):
    """No linear read-out: a 1×1 convolution gives class maps, and a pool makes logits of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.act = nn.GELU()
        self.maps = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(self.act(self.conv1(x))).mean((2, 3))


@dataclass
class Answer:
    """What some libraries return: an object with `.logits`."""

    hidden: Tensor
    logits: Tensor


class AnswersAs(nn.Module):
    """An MLP whose logits come in a tuple, a dict or an object."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU())
        self.readout = nn.Linear(16, CLASSES)
        self.kind = kind

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | dict[str, Tensor] | Answer:
        hidden = self.body(x)
        logits = self.readout(hidden)
        if self.kind == "tuple":
            return logits, hidden
        if self.kind == "dict":
            return {"hidden": hidden, "logits": logits}
        return Answer(hidden, logits)


class TextNet(nn.Module):
    """Tokens (n, any) below 64 → their mean where the mask is one → a hidden layer → classes.

    The logits come in an object; the mask is optional.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(64, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Answer:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = (self.table(input_ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        hidden = torch.relu(self.fc(rows))
        return Answer(hidden, self.out(hidden))


class NeverCalledNet(nn.Module):
    """Has a module `spare` that the forward pass does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.spare = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class VaryingNet(nn.Module):
    """Calls `step` once, and once more for a batch in which some first value is above 100."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.readout = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        again = bool((x[:, 0] > 100).any())
        x = self.step(x)
        if again:
            x = self.step(x)
        return self.readout(x)


class InputNamedNet(nn.Module):
    """Has a child that is called `input`, like the model's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU())
        self.output = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.input(x))


class InPlaceInputNet(nn.Module):
    """Scales its input in place, as preprocessing inside a model may; then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(1.0).mul_(0.5)
        return self.body(x)


class SegmentationNet(nn.Module):
    """One class a pixel: not a single-label classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DropoutNet(nn.Module):
    """Dropout and batch norm: an MLP that behaves differently in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)
        )
        self.readout = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.body(x))


ROWS, IMAGES, TOKENS = "rows", "images", "tokens"
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mlp": (mlp, ROWS),
    "residual": (ResidualNet, IMAGES),
    "functional": (FunctionalNet, ROWS),
    "transformer": (TransformerClassifier, TOKENS),
    "attention": (AttentionNet, ROWS),
    "conv-only": (ConvOnlyNet, IMAGES),
    "tuple": (lambda: AnswersAs("tuple"), ROWS),
    "dict": (lambda: AnswersAs("dict"), ROWS),
    "object": (lambda: AnswersAs("object"), ROWS),
    "input-named": (InputNamedNet, ROWS),
    "dropout": (DropoutNet, ROWS),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Return one of `MODELS`, in evaluation mode, its batch norms with statistics of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name][0]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def data_for(name: str, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs that fit one of `MODELS`, and labels."""
    return data(MODELS[name][1], n, seed)


def data(kind: str, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and labels whose classes have different means, so decoding finds something."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % CLASSES)
    if kind == TOKENS:
        x = (rng.integers(0, 5, (n, 5)) + 5 * y[:, None]).astype(np.int64)
    else:
        width = WIDTH if kind == ROWS else 36
        centres = np.random.default_rng(99).normal(size=(CLASSES, width)) * 1.5
        x = (rng.normal(size=(n, width)) + centres[y]).astype(np.float32)
        x = x if kind == ROWS else x.reshape(n, 1, 6, 6)
    return torch.from_numpy(x), torch.from_numpy(y)


def shared_out(monkeypatch, **numbers):
    """Let some parts of every decode have other shares of the memory than they would."""
    of = Shares.of.__func__
    monkeypatch.setattr(
        Shares, "of", classmethod(lambda *how: dataclasses.replace(of(*how), **numbers))
    )

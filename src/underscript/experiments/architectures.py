"""The paper's networks, with submodules named as its tables name the layers.

Each hidden stage is one submodule that ends in its ReLU, so that the output of `fc1` is what the
paper calls layer fc1, and probing a network needs no more than the names in `PROBED`.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ModelError

__all__ = ["CNN", "MLP", "PROBED", "build"]

PROBED = {
    "mlp": ("input", "fc1", "fc2", "fc3", "fc4"),
    "cnn": ("input", "flatten", "fc1", "fc2", "fc3"),
}
"""The layers that the paper decodes, in execution order, for each architecture."""


class MLP(nn.Module):
    """Multi-layer perceptron: d_in → 128 → 512 → 2048 → 2048 → n_classes.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of one input, such as (1, 28, 28); it is flattened.
    n_classes : int
        Width of the read-out.

    Raises
    ------
    ModelError
        If a size is less than 1.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int) -> None:
        super().__init__()
        width = 1
        for size in _checked(input_shape, n_classes):
            width *= size
        self.flatten = nn.Flatten()
        self.fc1 = _hidden(width, 128)
        self.fc2 = _hidden(128, 512)
        self.fc3 = _hidden(512, 2048)
        self.fc4 = _hidden(2048, 2048)
        self.readout = nn.Linear(2048, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.fc2(self.fc1(self.flatten(x)))
        logits: Tensor = self.readout(self.fc4(self.fc3(x)))
        return logits


class CNN(nn.Module):
    """Three pairs of convolutions, each with a max-pool, then three hidden linear layers.

    3×3 convolutions with padding 1 and ReLU: 16, 16, pool; 32, 32, pool; 64, 64, pool; then
    250, 250, 250 with ReLU and a linear read-out without bias.

    Parameters
    ----------
    input_shape : sequence of int
        Channels, height and width of one input; height and width of at least 8, as each pool
        halves them.
    n_classes : int
        Width of the read-out.

    Raises
    ------
    ModelError
        If the shape is not (channels, height, width) or the image is too small for three pools.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int) -> None:
        super().__init__()
        shape = _checked(input_shape, n_classes)
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise ModelError(
                "the CNN needs inputs of shape (channels, height, width) with height and width "
                f"of at least 8, found {shape}; use the MLP for other inputs"
            )
        channels, height, width = shape
        self.features = nn.Sequential(
            OrderedDict(
                conv1=_convolution(channels, 16),
                conv2=_convolution(16, 16),
                pool1=nn.MaxPool2d(2),
                conv3=_convolution(16, 32),
                conv4=_convolution(32, 32),
                pool2=nn.MaxPool2d(2),
                conv5=_convolution(32, 64),
                conv6=_convolution(64, 64),
                pool3=nn.MaxPool2d(2),
            )
        )
        self.flatten = nn.Flatten()
        self.fc1 = _hidden(64 * (height // 8) * (width // 8), 250)
        self.fc2 = _hidden(250, 250)
        self.fc3 = _hidden(250, 250)
        self.readout = nn.Linear(250, n_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.flatten(self.features(x))
        logits: Tensor = self.readout(self.fc3(self.fc2(self.fc1(x))))
        return logits


_ARCHITECTURES: dict[str, type[MLP] | type[CNN]] = {"mlp": MLP, "cnn": CNN}


def build(arch: str, input_shape: Sequence[int], n_classes: int, seed: int) -> nn.Module:
    """Make a freshly initialised network whose weights depend on the seed alone.

    Parameters
    ----------
    arch : {"mlp", "cnn"}
        Which architecture.
    input_shape : sequence of int
        Channels, height and width of one input.
    n_classes : int
        Width of the read-out.
    seed : int
        Seed of the initial weights. torch's global random state stays as it was.

    Returns
    -------
    nn.Module
        The network on the CPU, in float32 and training mode.

    Raises
    ------
    ModelError
        If the architecture is unknown or does not fit the input shape.
    """
    if arch not in _ARCHITECTURES:
        raise ModelError(f"unknown architecture {arch!r}; choose one of {list(_ARCHITECTURES)}")
    # Weights are drawn on the CPU, so no accelerator's state needs to be set aside. The seed goes
    # into the CPU's generator alone: torch.manual_seed would reseed the accelerators as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _ARCHITECTURES[arch](input_shape, n_classes)


def _hidden(d_in: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_out), nn.ReLU())


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU())


def _checked(input_shape: Sequence[int], n_classes: int) -> tuple[int, ...]:
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1 or n_classes < 1:
        raise ModelError(
            f"expected an input shape and a number of classes of at least 1, found {shape} and "
            f"{n_classes}"
        )
    return shape

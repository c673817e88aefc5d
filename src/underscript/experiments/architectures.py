"""The paper's networks, with submodules named as its tables name the layers.

Each hidden stage is one submodule that ends in its ReLU. So the output of `fc1` is the paper's
layer fc1, and probing a network needs only the names in `catalogue.PROBED`. Where the paper is
silent, the class documents our choice. torch's defaults initialise all weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import ModelError

__all__ = ["CNN", "MLP", "AlexNet", "ResNet18", "build", "check_width"]


# Channels of ResNet-18's stem.
STEM = 64


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
        """Return the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
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
        channels, height, width = _image_shape("CNN", input_shape, n_classes)
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
        """Return the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.flatten(self.features(x))
        logits: Tensor = self.readout(self.fc3(self.fc2(self.fc1(x))))
        return logits


class SmallCNN(nn.Module):
    """Four convolutions with batch normalisation and three max-pools, then one hidden layer.

    3×3 convolutions with padding 1, batch normalisation and ReLU: 32, 32, pool; 64, pool; 128,
    pool; then 128 with ReLU and a linear read-out. It is ours: it memorises small images within
    seconds.

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
        channels, height, width = _image_shape("small CNN", input_shape, n_classes)
        self.conv1 = _normalised(channels, 32)
        self.conv2 = _normalised(32, 32)
        self.pool1 = nn.MaxPool2d(2)
        self.conv3 = _normalised(32, 64)
        self.pool2 = nn.MaxPool2d(2)
        self.conv4 = _normalised(64, 128)
        self.pool3 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = _hidden(128 * (height // 8) * (width // 8), 128)
        self.readout = nn.Linear(128, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.pool1(self.conv2(self.conv1(x)))
        x = self.pool3(self.conv4(self.pool2(self.conv3(x))))
        logits: Tensor = self.readout(self.fc1(self.flatten(x)))
        return logits


class AlexNet(nn.Module):
    """Five convolutions, then two hidden linear layers of 4096, without dropout.

    Convolutions of 64, 192, 384, 256 and 256 channels with ReLU, and a max-pool of 3 with stride 2
    after the first, second and fifth. The flattened size is 256 (256 × 1 × 1) in both variants:

    - 64×64 (Tiny ImageNet): the first convolution is 11×11 with stride 4 and padding 2. The sides
      are 64 → 15 → pool 7 → 7 → pool 3 → 3 → 3 → 3 → pool 1.
    - 32×32 (CIFAR-100): the first convolution is 3×3 with stride 2 and padding 1. The sides are
      32 → 16 → pool 7 → 7 → pool 3 → 3 → 3 → 3 → pool 1.

    Parameters
    ----------
    input_shape : sequence of int
        Channels, height and width of one input; height and width both 32 or both 64, which
        chooses the variant.
    n_classes : int
        Width of the read-out.

    Raises
    ------
    ModelError
        If the shape is neither (channels, 32, 32) nor (channels, 64, 64).

    Notes
    -----
    For CIFAR-100 the paper gives the size and stride of the first convolution, and the flattened
    size. We chose its padding of 1, and the same later layers as for 64×64, which lead to the
    paper's flattened size. For 64×64 the paper gives no flattened size; ours is the output of the
    five convolutions, without an adaptive pool. (Definitions for 224×224 often end in one to 6 × 6;
    here it would only repeat each of the 256 values 36 times.)
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int) -> None:
        super().__init__()
        shape = _checked(input_shape, n_classes)
        if len(shape) != 3 or shape[1:] not in ((32, 32), (64, 64)):
            raise ModelError(
                "AlexNet needs inputs of shape (channels, 32, 32) or (channels, 64, 64), found "
                f"{shape}; resize the images or use another architecture"
            )
        channels, height, _ = shape
        if height == 32:
            conv1 = _convolution(channels, 64, 3, stride=2, padding=1)
        else:
            conv1 = _convolution(channels, 64, 11, stride=4, padding=2)
        self.features = nn.Sequential(
            OrderedDict(
                conv1=conv1,
                pool1=nn.MaxPool2d(3, stride=2),
                conv2=_convolution(64, 192, 5, padding=2),
                pool2=nn.MaxPool2d(3, stride=2),
                conv3=_convolution(192, 384),
                conv4=_convolution(384, 256),
                conv5=_convolution(256, 256),
                pool3=nn.MaxPool2d(3, stride=2),
            )
        )
        self.flatten = nn.Flatten()
        self.fc1 = _hidden(256, 4096)
        self.fc2 = _hidden(4096, 4096)
        self.readout = nn.Linear(4096, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.flatten(self.features(x))
        logits: Tensor = self.readout(self.fc2(self.fc1(x)))
        return logits


class ResNet18(nn.Module):
    """A stem, four stages of two residual blocks, and the mean over positions.

    The stem is a 3×3 convolution with stride 1 to 64 channels, batch norm, ReLU and a max-pool of
    3 with stride 2 and padding 1. The stages have 64, 128, 256 and 512 channels; each but the
    first halves height and width. `pooled` is the row of 512 values that the read-out takes. For
    32×32 inputs the widths are 16,384 after the stem, inside stage 1 and after it, then 8192, 4096
    and 2048 after the other stages, then 512.

    Parameters
    ----------
    input_shape : sequence of int
        Channels, height and width of one input.
    n_classes : int
        Width of the read-out.
    width : float, default 1.0
        Share of the channels that every layer has, so that a small machine can train it: with 0.25
        the stages have 16, 32, 64 and 128. The paper's network has all of them.

    Raises
    ------
    ModelError
        If the shape is not (channels, height, width), or `width` is out of range.

    Notes
    -----
    The paper only calls the stages "standard". We chose the basic blocks of [1]_, with a 1×1
    convolution and batch norm on the shortcut where the shape changes, no biases before a batch
    norm, and padding 1 in the stem. We read "inside stage 1" as between its two blocks. In
    training, inputs of up to 16×16 need at least two samples per batch: the last stage has one
    position left, and a batch norm cannot work on a single value.

    References
    ----------
    .. [1] He, K., Zhang, X., Ren, S. and Sun, J. (2016). Deep residual learning for image
       recognition. CVPR.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int, width: float = 1.0) -> None:
        super().__init__()
        shape = _checked(input_shape, n_classes)
        check_width("resnet18", width)
        if len(shape) != 3:
            raise ModelError(
                "ResNet-18 needs inputs of shape (channels, height, width), found "
                f"{shape}; use the MLP for other inputs"
            )
        # Each stage but the first doubles the channels of the one before, whatever the width.
        first, second, third, fourth = (round(STEM * width) * 2**stage for stage in range(4))
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(shape[0], first, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(first),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        self.stage1 = _stage(first, first, stride=1)
        self.stage2 = _stage(first, second, stride=2)
        self.stage3 = _stage(second, third, stride=2)
        self.stage4 = _stage(third, fourth, stride=2)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.readout = nn.Linear(fourth, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, n_classes), of inputs of shape (n, *input_shape)."""
        x = self.stage2(self.stage1(self.stem(x)))
        logits: Tensor = self.readout(self.pooled(self.stage4(self.stage3(x))))
        return logits


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, added to the shortcut before the last ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
                norm1=nn.BatchNorm2d(channels_out),
                relu=nn.ReLU(),
                conv2=nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
                norm2=nn.BatchNorm2d(channels_out),
            )
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                    norm=nn.BatchNorm2d(channels_out),
                )
            )
        # Not in place, here and in the stem, so that a layer's output never changes after reading.
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (n, channels_out, height / stride, width / stride)."""
        added: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return added


_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "small-cnn": SmallCNN,
    "alexnet": AlexNet,
    "resnet18": ResNet18,
}


def build(
    arch: str, input_shape: Sequence[int], n_classes: int, seed: int, width: float = 1.0
) -> nn.Module:
    """Build a new network whose initial weights depend only on the seed.

    Parameters
    ----------
    arch : {"mlp", "cnn", "small-cnn", "alexnet", "resnet18"}
        Which architecture.
    input_shape : sequence of int
        Channels, height and width of one input.
    n_classes : int
        Width of the read-out.
    seed : int
        Seed of the initial weights. torch's global random state stays as it was.
    width : float, default 1.0
        Share of its channels that a ResNet-18 has; the others are always whole.

    Returns
    -------
    nn.Module
        The network on the CPU, in float32 and training mode.

    Raises
    ------
    ModelError
        If the architecture is unknown or does not fit the input shape, or does not come in this
        width.
    """
    if arch not in _ARCHITECTURES:
        raise ModelError(f"unknown architecture {arch!r}; choose one of {list(_ARCHITECTURES)}")
    check_width(arch, width)
    scaled = {"width": width} if arch == "resnet18" else {}
    # Weights are drawn on the CPU, so accelerators keep their random state. Seed only the CPU's
    # generator: torch.manual_seed would reseed the accelerators as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _ARCHITECTURES[arch](input_shape, n_classes, **scaled)


def check_width(arch: str, width: float) -> None:
    """Raise an error if an architecture does not come in this width.

    Raises
    ------
    ModelError
        If `width` is not 1 and the architecture is not ResNet-18, or it is not a share that leaves
        at least one channel.
    """
    if arch != "resnet18" and width != 1:
        raise ModelError(f"width: expected 1, as only resnet18 can be narrower; found {width:g}")
    # `not (1 / STEM <= width <= 1)` also catches NaN.
    if not 1 / STEM <= width <= 1:
        raise ModelError(
            f"width: expected a share of the channels from 1/{STEM} to 1; found {width:g}"
        )


def _hidden(d_in: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_out), nn.ReLU())


def _convolution(
    channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=padding), nn.ReLU()
    )


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _ResidualBlock(channels_in, channels_out, stride),
        _ResidualBlock(channels_out, channels_out, 1),
    )


def _normalised(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


def _image_shape(name: str, input_shape: Sequence[int], n_classes: int) -> tuple[int, int, int]:
    """Return channels, height and width of images that three pools can halve."""
    shape = _checked(input_shape, n_classes)
    if len(shape) != 3 or min(shape[1:]) < 8:
        raise ModelError(
            f"the {name} needs inputs of shape (channels, height, width) with height and width "
            f"of at least 8, found {shape}; use the MLP for other inputs"
        )
    channels, height, width = shape
    return channels, height, width


def _checked(input_shape: Sequence[int], n_classes: int) -> tuple[int, ...]:
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1 or n_classes < 1:
        raise ModelError(
            f"expected an input shape and a number of classes of at least 1, found {shape} and "
            f"{n_classes}"
        )
    return shape

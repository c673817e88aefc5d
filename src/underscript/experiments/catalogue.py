"""What can be reproduced: the paper's networks and experiments, and the networks of the study.

Nothing here imports torch, so that `underscript reproduce --help` does not wait for it.
"""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "CORRUPTIONS",
    "DEMOS",
    "EXPERIMENTS",
    "HUMAN_LABELS",
    "NOISES",
    "PAIRS",
    "PROBED",
    "SEQUEL",
    "SETTINGS",
    "Pair",
    "Setting",
    "Transferred",
]

PROBED = {
    "mlp": ("input", "fc1", "fc2", "fc3", "fc4"),
    "cnn": ("input", "flatten", "fc1", "fc2", "fc3"),
    "small-cnn": ("input", "conv1", "conv2", "conv3", "conv4", "fc1"),
    "alexnet": ("input", "flatten", "fc1", "fc2"),
    "resnet18": ("input", "stem", "stage1.0", "stage1", "stage2", "stage3", "stage4", "pooled"),
}
"""The layers to decode, in execution order; small-cnn is ours, the others are the paper's."""

DEMOS = {
    "moved-digits": "small-cnn",
    "digits": "mlp",
    "mnist": "mlp",
    "fashion-mnist": "mlp",
    "cifar10": "small-cnn",
}
"""Data sets of the demo, and the architecture that suits each."""
HUMAN_LABELS = {
    "worse": "worse_label",
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}
"""Labels that people gave to CIFAR-10's training images (CIFAR-10N), and their files.

A wrong one of three labels where there is one; the majority; one person's.
"""


@dataclass(frozen=True)
class Pair:
    """A data set and an architecture, and the authors' name for them in their result files."""

    data: str
    arch: str
    published: str | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the paper decodes, the input first."""
        return PROBED[self.arch]


PAIRS: dict[str, Pair] = {
    "mnist-mlp": Pair("mnist", "mlp", "MNIST_MLP"),
    "cifar10-mlp": Pair("cifar10", "mlp", "CIFAR10_MLP"),
    "mnist-cnn": Pair("mnist", "cnn", "MNIST_CNN"),
    "fashion-mnist-cnn": Pair("fashion-mnist", "cnn", "FashionMNIST_CNN"),
    "cifar10-cnn": Pair("cifar10", "cnn", "CIFAR10_CNN"),
    "cifar100-alexnet": Pair("cifar100", "alexnet", "CIFAR100_AlexNet"),
    "tiny-imagenet-alexnet": Pair("tiny-imagenet", "alexnet", "TinyImageNet_AlexNet"),
    "cifar10-resnet18": Pair("cifar10", "resnet18", "CIFAR10_ResNet18"),
    "fashion-mnist-mlp": Pair("fashion-mnist", "mlp"),
    "digits-mlp": Pair("digits", "mlp"),
    "digits-cnn": Pair("digits", "cnn"),
    "moved-digits-cnn": Pair("moved-digits", "small-cnn"),
}
"""The paper's eight pairs, and small ones of ours to try things out (the last four)."""

EXPERIMENTS: dict[str, str] = {
    "E1": "subspaces from the corrupted labels, memorised network",
    "E2": "subspaces from the true labels, memorised network",
    "E3": "subspaces from corrupted labels, network trained on true ones",
    "E4": "the memorised network trained on with labels that MASC re-assigned",
    "E5": "MASC at several variance shares",
    "E6": "other probes on the same layers",
    "E7": "E1 and E2 on ResNet-18",
    "A1": "ours: the decoder that chooses itself, with and without a hold-out",
    "A2": "the probes of E6 fitted to the given labels alone, beside A1",
    "D1": "ours: wrong labels found, beside other ways and retraining",
    "S1": "the sequel: MASC and VeLPIC of each layer along training",
    "S2": "the sequel: VeLPIC written into the read-out along training",
}
"""The paper's experiments, its sequel's, and three of ours.

The controls (input, random twin) come with E1.
"""


class Transferred(NamedTuple):
    """Test accuracy of a network whose read-out VeLPIC replaced, as its authors report it.

    Attributes
    ----------
    epoch : int
        The best epoch.
    best, end : float
        Test accuracy there, and at the end of training.
    """

    epoch: int
    best: float
    end: float


SEQUEL: dict[tuple[str, float], Transferred] = {
    ("mnist-mlp", 0.8): Transferred(25, 0.905, 0.821),
    ("cifar10-cnn", 0.4): Transferred(12, 0.670, 0.536),
}
"""What the sequel (arXiv 2603.19865) reports of S2, by pair and corruption degree."""

CORRUPTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NOISES = ("symmetric", "pair", "instance")


class Setting(NamedTuple):
    """The networks to train with a pair of data set and architecture.

    Attributes
    ----------
    samples, holdout : int
        Number of images (None: all), and how many of these are held out, at least: a drawing that
        is in several images is held out as a whole.
    degrees : dict of str to sequence of float
        Corruption degrees, by kind of noise.
    """

    samples: int | None
    holdout: int
    degrees: dict[str, tuple[float, ...]]


SMALL = {"symmetric": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "pair": (0.2, 0.4), "instance": (0.3,)}
LARGE = {"symmetric": (0.0, 0.4, 0.8), "pair": (0.4,)}
SETTINGS: dict[str, Setting] = {
    "digits-mlp": Setting(None, 150, SMALL),
    "digits-cnn": Setting(None, 150, SMALL),
    "mnist-mlp": Setting(2_500, 250, LARGE),
    "fashion-mnist-cnn": Setting(2_500, 250, LARGE),
    "moved-digits-cnn": Setting(None, 450, LARGE),
}
"""Pairs of data set and architecture; the small ones carry most of the cells."""

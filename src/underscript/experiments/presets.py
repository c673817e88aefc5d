"""Training recipes: the paper's, and a quick one that memorises in minutes on two cores."""

from dataclasses import dataclass, replace

from ..errors import DataError

__all__ = ["Preset", "preset_for"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A training recipe: cross-entropy, no augmentation, no weight decay.

    The learning rate rises linearly over the first epochs, then stays constant. Once the share of
    labels not yet fitted falls below `anneal_below`, it shrinks with that share. So one recipe
    serves noise that takes ten epochs to memorise and noise that takes fifty.

    Parameters
    ----------
    name : str
        Name of the recipe in reports.
    optimiser : {"adam", "sgd"}
        Adam, or gradient descent with `momentum`.
    learning_rate : float
        The highest learning rate.
    batch_size : int
        Most samples in a batch.
    least_steps : int
        Least number of batches in an epoch, so that small data are trained in smaller batches.
    stop_accuracy : float
        Training stops when this share of the given labels is predicted.
    stop_on : {"finished", "running"}
        Which accuracy that is: the finished network's, in evaluation mode over all samples; or the
        running one, the share of labels predicted in the epoch's batches, each before its step.
    max_epochs : int
        Training stops after this many epochs, whatever the accuracy.
    momentum : float
        Momentum of gradient descent.
    shuffle : bool
        Take the samples in a new order in each epoch.
    fast_products : bool
        Multiply in bfloat16, not float32, where the hardware has instructions for it.
    every_epoch : bool
        Measure the finished network's training accuracy after every epoch; otherwise only once the
        running accuracy is high enough.
    test_curve : bool
        Measure test accuracy after every epoch, for the oracle that stops early.
    warmup_epochs : float
        Epochs over which the learning rate rises.
    anneal_below : float
        The rate shrinks once the share of labels not fitted in the last epoch is below this; with
        0 it never does.
    lowest_rate : float
        After the warm-up, the rate never falls below this share of `learning_rate`.
    samples : int, optional
        Most training samples that a reproduction takes, drawn at random; by default all.
    width : float
        Share of its channels that a ResNet-18 has; the others are always whole.
    """

    name: str
    optimiser: str
    learning_rate: float
    batch_size: int
    stop_accuracy: float
    max_epochs: int
    stop_on: str = "finished"
    least_steps: int = 1
    momentum: float = 0.0
    shuffle: bool = True
    fast_products: bool = True
    every_epoch: bool = False
    test_curve: bool = True
    warmup_epochs: float = 0.0
    anneal_below: float = 0.0
    lowest_rate: float = 1.0
    samples: int | None = None
    width: float = 1.0

    def batch_size_for(self, n: int) -> int:
        """Return the batch size used for n samples."""
        return max(1, min(self.batch_size, n // self.least_steps))

    def rate(self, epochs_done: float, fitted: float) -> float:
        """Return the learning rate after `epochs_done`, given the last epoch's accuracy."""
        warmup = min(1.0, epochs_done / self.warmup_epochs) if self.warmup_epochs else 1.0
        missing = (1.0 - fitted) / self.anneal_below if self.anneal_below else 1.0
        return self.learning_rate * warmup * min(1.0, max(self.lowest_rate, missing))


_QUICK = Preset(
    name="quick",
    optimiser="adam",
    learning_rate=1e-3,
    batch_size=1024,
    least_steps=10,
    stop_accuracy=0.99,
    max_epochs=100,
    warmup_epochs=1,
    anneal_below=0.2,
    lowest_rate=0.2,
    samples=25_000,
)
# With 60,000 images a convolutional network would take an hour to memorise on two cores.
_QUICK_CONVOLUTIONS = replace(_QUICK, least_steps=40, lowest_rate=0.1, samples=10_000)
# The authors use one fixed order of the samples, and stop on the running accuracy.
_SGD = Preset(
    name="paper",
    optimiser="sgd",
    learning_rate=1e-3,
    momentum=0.9,
    batch_size=32,
    stop_accuracy=1.0,
    stop_on="running",
    max_epochs=500,
    shuffle=False,
    fast_products=False,
    every_epoch=True,
)
_ADAM = replace(_SGD, optimiser="adam", learning_rate=2e-4, momentum=0.0, batch_size=128)

_RECIPES: dict[tuple[str, ...], Preset] = {
    ("quick", "mlp"): _QUICK,
    ("quick", "cnn"): replace(_QUICK_CONVOLUTIONS, batch_size=512),
    ("quick", "small-cnn"): replace(_QUICK_CONVOLUTIONS, batch_size=512),
    ("quick", "alexnet"): replace(_QUICK_CONVOLUTIONS, learning_rate=5e-4, batch_size=256),
    # A quarter of the channels is about a sixteenth of the arithmetic.
    ("quick", "resnet18"): replace(_QUICK_CONVOLUTIONS, batch_size=128, width=0.25),
    ("paper", "mlp"): _SGD,
    ("paper", "resnet18"): _SGD,
    ("paper", "cnn"): replace(_ADAM, stop_accuracy=0.999),
    ("paper", "cnn", "fashion-mnist"): replace(_ADAM, stop_accuracy=0.991),
    ("paper", "cnn", "cifar10"): replace(_ADAM, batch_size=32),
    ("paper", "alexnet"): replace(_ADAM, learning_rate=1e-4, stop_accuracy=0.991),
    ("paper", "alexnet", "tiny-imagenet"): replace(
        _ADAM, learning_rate=1e-4, batch_size=500, stop_accuracy=0.999
    ),
}


def preset_for(name: str, arch: str, data: str | None = None) -> Preset:
    """Return the recipe of an architecture, or of its data set if the paper has one for that.

    Parameters
    ----------
    name : {"quick", "paper"}
        Which kind of recipe.
    arch : {"mlp", "cnn", "small-cnn", "alexnet", "resnet18"}
        Architecture.
    data : str, optional
        Data set.

    Raises
    ------
    DataError
        If there is no such recipe.
    """
    recipe = _RECIPES.get((name, arch, data or "")) or _RECIPES.get((name, arch))
    if recipe is None:
        known = ", ".join(sorted({" ".join(key[:2]) for key in _RECIPES}))
        raise DataError(f"preset: expected one of {known}; found {name} {arch}")
    return recipe

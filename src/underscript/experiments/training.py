"""Train a network until it has memorised its labels, and record how that went."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import DataError, LabelError, ModelError
from ..utils.device import seeded
from .checkpoints import Checkpoint, State
from .presets import Preset

__all__ = [
    "Readings",
    "TrainingRecord",
    "lay_out",
    "matrix_precision",
    "measure_accuracy",
    "optimiser_for",
    "own_randomness",
    "train",
    "train_epoch",
    "training_step",
]

EVALUATION_BATCH = 2048

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Readings(NamedTuple):
    """What to measure on the network along its training.

    Attributes
    ----------
    wanted : callable
        Says of an epoch (0: before training) whether to measure after it. The last one always is.
    read : callable
        Takes the network and the epoch, leaves the network as it is, and returns rows to keep,
        which must fit into JSON.
    """

    wanted: Callable[[int], bool]
    read: Callable[[nn.Module, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went.

    Attributes
    ----------
    history : list of dict
        For each epoch: `epoch` (from 1), `loss` (mean cross-entropy) and `train_accuracy` (share
        of given labels predicted), both averaged over its batches before each step, `seconds`
        since the start, and `NAME_accuracy` at its end for each evaluation set.
    train_accuracy : float
        Share of the given training labels that the finished network predicts, measured in
        evaluation mode and float32 over all rows.
    epochs : int
        Number of epochs trained.
    reached : bool
        Whether the accuracy that the preset stops on is at least its `stop_accuracy`.
    seconds : float
        Wall-clock time, including evaluation, but not `readings`.
    settings : dict
        The preset's fields and what follows from them: the `batch_size` used, the `precision` of
        multiplications in training, `seed`, `device` and `n`.
    readings : list of dict
        The rows that were measured along the training, if any were asked for.
    """

    history: list[dict[str, float]]
    train_accuracy: float
    epochs: int
    reached: bool
    seconds: float
    settings: dict[str, Any]
    readings: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    preset: Preset,
    *,
    seed: int,
    device: str | torch.device,
    eval_sets: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    readings: Readings | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    compiled: bool = False,
) -> TrainingRecord:
    """Train a network on the given labels until it has memorised them.

    Weights are float32, and the finished network's accuracy is measured in float32; accuracies in
    between are measured in the precision that training uses. The same seed on the same machine
    gives the same network, even if training was killed and resumed from its checkpoint. torch's
    global random state is left as it was.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, n_classes). It is trained in place, and left on `device` in
        evaluation mode.
    images : Tensor of shape (n, ...), float32
        Inputs, already scaled (the paper: to [-1, 1]).
    labels : Tensor of shape (n,), int64
        The labels to fit, corrupted or not.
    preset : Preset
        The recipe. With `fast_products`, training steps multiply in bfloat16 if the hardware has
        instructions for it (a CPU with AMX or AVX512-BF16, a CUDA device of capability 8.0 or
        more), else in float32.
    seed : int
        Seed of the order of the samples, and of any dropout in the model.
    device : str or torch.device
        Where to train, such as "cpu" or "cuda". The data are moved there as a whole.
    eval_sets : mapping of str to (Tensor, Tensor), optional
        Images and labels; their accuracy is recorded after every epoch. Sets with the same images
        share one pass.
    readings : Readings, optional
        What else to measure along the training. Resumed training keeps what was measured before.
    checkpoint : Path, optional
        A file for the state, written at most every half minute. If it exists and belongs to this
        training, training resumes from it; if it is damaged, that is logged and training restarts.
    progress : bool, default True
        Whether to show a progress bar on stderr, if that is a terminal.
    compiled : bool, default False
        Whether `torch.compile` fuses the forward and backward pass of a step (on CUDA, into
        graphs). Compiling takes a minute and needs a C++ compiler.

    Returns
    -------
    TrainingRecord
        Check its `reached`: missing the preset's accuracy is recorded, not raised.

    Raises
    ------
    DataError
        If images are empty, not float32 or not finite, or labels and images differ in number.
    LabelError
        If the labels are not int64 from 0 to the model's number of classes - 1.
    ModelError
        If the model does not return logits of shape (n, n_classes), its loss or weights are
        no longer finite, or it cannot be compiled.
    OutputError
        If the checkpoint cannot be written.
    """
    device = torch.device(device)
    eval_sets = dict(eval_sets or {})
    _check_data(images, labels, "training")
    for name, (eval_images, eval_labels) in eval_sets.items():
        _check_data(eval_images, eval_labels, name)
    precision = matrix_precision(device) if preset.fast_products else torch.float32
    settings = asdict(preset) | {
        "batch_size": preset.batch_size_for(len(images)),
        "precision": str(precision).removeprefix("torch."),
        "seed": seed,
        "device": str(device),
        "compiled": compiled,
        "n": len(images),
    }
    if readings is not None:
        # A checkpoint of a training without them lacks those of earlier epochs.
        settings["readings"] = True
    kept = None if checkpoint is None else Checkpoint(checkpoint, settings, images, labels)

    # Channels last makes convolutions two to three times as fast on a CPU.
    model.to(device)
    lay_out(model, torch.channels_last)
    images, labels = images.to(device), labels.to(device)
    state = State(model, optimiser_for(model, preset), torch.Generator().manual_seed(seed))
    if preset.every_epoch:
        eval_sets = {"given": (images, labels), **eval_sets}
    train_accuracy: float | None = None
    with (
        own_randomness(device, seed),
        tqdm(
            total=preset.max_epochs,
            desc="training",
            unit="epoch",
            disable=None if progress else True,
            leave=False,
        ) as bar,
    ):
        _check_classes(model, images, labels)
        if kept is not None and kept.restore(state):
            bar.update(len(state.history))
        started = time.perf_counter() - state.seconds
        if readings is not None and not state.history:
            started += _read(state, readings)
        step = training_step(model, device, precision, compiled)
        while len(state.history) < preset.max_epochs:
            loss, state.fitted = train_epoch(state, step, images, labels, preset)
            epoch = len(state.history) + 1
            if not math.isfinite(loss):
                raise ModelError(
                    f"the training loss became {loss} in epoch {epoch}; lower the learning rate "
                    f"(now {preset.learning_rate:g}) or check the scale of the inputs"
                )
            row: dict[str, float] = {"epoch": epoch, "loss": loss, "train_accuracy": state.fitted}
            row |= _accuracies(model, eval_sets, precision)
            row["seconds"] = time.perf_counter() - started
            state.history.append(row)
            # The running accuracy is free, but the network changes while it is measured.
            train_accuracy = row.get("given_accuracy")
            seen = state.fitted if preset.stop_on == "running" else train_accuracy
            if seen is None and state.fitted >= preset.stop_accuracy:
                seen = train_accuracy = measure_accuracy(model, images, labels)
            bar.set_postfix(
                training_accuracy=f"{state.fitted if seen is None else seen:.1%}", refresh=False
            )
            bar.update()
            reached = seen is not None and seen >= preset.stop_accuracy
            last = reached or epoch == preset.max_epochs
            if readings is not None and (last or readings.wanted(epoch)):
                started += _read(state, readings)
            if reached:
                break
            if kept is not None:
                state.seconds = row["seconds"]
                kept.save(state)
        if train_accuracy is None:
            train_accuracy = measure_accuracy(model, images, labels)
    # Back to the usual layout, the only one that safetensors writes.
    lay_out(model, torch.contiguous_format)
    model.eval()
    decisive = state.fitted if preset.stop_on == "running" else train_accuracy
    return TrainingRecord(
        history=state.history,
        train_accuracy=train_accuracy,
        epochs=len(state.history),
        reached=decisive >= preset.stop_accuracy,
        seconds=time.perf_counter() - started,
        settings=settings,
        readings=state.readings,
    )


def _read(state: State, readings: Readings) -> float:
    """Measure the network as it is now; return how long that took, in seconds."""
    began = time.perf_counter()
    state.readings += readings.read(state.model, len(state.history))
    return time.perf_counter() - began


def measure_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of labels that the model predicts, in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, n_classes), in its own precision. Its mode is left as it was.
    images : Tensor of shape (n, ...)
        Inputs; moved to the model's device batch by batch.
    labels : Tensor of shape (n,), int64
        The labels to compare with.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ModelError
        If a logit is not finite.
    """
    return float((_predictions(model, images) == labels.to(_device(model))).double().mean())


def _predictions(model: nn.Module, images: Tensor) -> Tensor:
    device = _device(model)
    was_training = model.training
    predicted = torch.empty(len(images), dtype=torch.int64, device=device)
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), EVALUATION_BATCH):
                logits = model(images[start : start + EVALUATION_BATCH].to(device))
                if not torch.isfinite(logits).all():
                    raise ModelError(
                        "the model gives logits that are not finite within the "
                        f"{len(logits)} samples from {start} on; check its weights and the scale "
                        "of the inputs"
                    )
                predicted[start : start + len(logits)] = logits.argmax(dim=1)
    finally:
        model.train(was_training)
    return predicted


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _accuracies(
    model: nn.Module, eval_sets: Mapping[str, tuple[Tensor, Tensor]], precision: torch.dtype
) -> dict[str, float]:
    """Measure ``NAME_accuracy`` of each set; sets with the same images share one pass."""
    accuracies: dict[str, float] = {}
    by_images: dict[tuple[int, int], list[str]] = {}
    for name, (images, _) in eval_sets.items():
        by_images.setdefault((images.data_ptr(), len(images)), []).append(name)
    for names in by_images.values():
        with _products(_device(model), precision):
            predicted = _predictions(model, eval_sets[names[0]][0])
        for name in names:
            labels = eval_sets[name][1].to(predicted.device)
            accuracies[f"{name}_accuracy"] = float((predicted == labels).double().mean())
    return {f"{name}_accuracy": accuracies[f"{name}_accuracy"] for name in eval_sets}


def _products(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return a context in which matrices are multiplied in the given precision."""
    half = precision == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def optimiser_for(model: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """Return the preset's optimiser of a model's parameters."""
    if preset.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=preset.learning_rate, momentum=preset.momentum, fused=True
        )
    return torch.optim.Adam(model.parameters(), lr=preset.learning_rate, fused=True)


def training_step(
    model: nn.Module, device: torch.device, precision: torch.dtype, compiled: bool
) -> Step:
    """Return a function that gives a batch's mean loss and its number of labels predicted."""

    def step(x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        with _products(device, precision):
            logits = model(x)
        logits = logits.float()
        right = (logits.detach().argmax(dim=1) == given).sum()
        return nn.functional.cross_entropy(logits, given), right

    if not compiled:
        return step
    from torch._dynamo.exc import TorchDynamoException  # importing it takes seconds

    mode = "reduce-overhead" if device.type == "cuda" else "default"
    fused = torch.compile(step, dynamic=False, mode=mode)

    def checked(x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return fused(x, given)
        except TorchDynamoException as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the training step cannot be compiled here ({reason}); train without compiling"
            ) from error

    return checked


def train_epoch(
    state: State, step: Step, images: Tensor, labels: Tensor, preset: Preset
) -> tuple[float, float]:
    """Train on every sample once; return the mean loss and the share of labels predicted."""
    model, optimiser, done = state.model, state.optimiser, len(state.history)
    model.train()
    n, size = len(images), preset.batch_size_for(len(images))
    loss_sum = torch.zeros((), device=images.device)
    right = torch.zeros((), dtype=torch.int64, device=images.device)
    batches: Iterable[tuple[Tensor, Tensor]]
    if preset.shuffle:
        order = torch.randperm(n, generator=state.order).to(images.device)
        batches = ((images[rows], labels[rows]) for rows in torch.split(order, size))
    else:
        batches = zip(torch.split(images, size), torch.split(labels, size), strict=True)
    steps = math.ceil(n / size)
    for number, (x, given) in enumerate(batches, start=1):
        for group in optimiser.param_groups:
            group["lr"] = preset.rate(done + number / steps, state.fitted)
        loss, predicted = step(x, given)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        # Sums stay on the device: reading them back would stall an accelerator at every step.
        loss_sum += loss.detach() * len(x)
        right += predicted
    return float(loss_sum) / n, float(right) / n


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Store the weights of 2-D convolutions in the given memory format; values stay the same."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def matrix_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where hardware multiplies it several times as fast as float32.

    The rule looks at the hardware and times nothing, so the result on a machine never changes.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        # Intel's matrix units, or vector instructions that AMD (Zen 4, Zen 5) has too. On AMD they
        # are four times as fast as float32, for which MKL uses AVX2 there.
        capable = torch.cpu.get_capabilities()
        fast = bool(capable.get("amx_bf16") or capable.get("avx512_bf16"))
    else:  # An older torch cannot tell; float32 works everywhere.
        fast = False
    return torch.bfloat16 if fast else torch.float32


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the randomness inside a model (dropout); restore torch's global state afterwards."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with seeded(seed, device):
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


def _check_data(images: Tensor, labels: Tensor, name: str) -> None:
    if images.ndim < 2 or len(images) == 0 or images.dtype != torch.float32:
        raise DataError(
            f"{name} images must be float32 of shape (n, ...) with n at least 1, found "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    if not torch.isfinite(images).all():
        raise DataError(f"{name} images hold values that are not finite; drop or correct them")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise LabelError(
            f"{name} labels must be int64 of shape (n,), found {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if len(labels) != len(images):
        raise DataError(
            f"{name} labels and images must be of one number, found {len(labels)} and {len(images)}"
        )


def _check_classes(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Check labels against the logits of one sample: a wrong one would crash inside torch."""
    model.eval()
    with torch.no_grad():
        logits = model(images[:1])
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model must return logits of shape (n, n_classes), found {returned}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= logits.shape[1]:
        raise LabelError(
            f"training labels must be from 0 to {logits.shape[1] - 1}, as the model gives "
            f"{logits.shape[1]} logits, found {lowest} to {highest}"
        )

"""Checkpoints of an unfinished training: a killed one resumes as if it had never stopped."""

import json
import logging
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..utils.files import write_tensors

logger = logging.getLogger(__name__)

# Seconds between two checkpoints; writing one takes a fraction of a second.
_EVERY = 30.0


@dataclass
class State:
    """Everything that the next epoch depends on, except the data.

    Attributes
    ----------
    model : nn.Module
    optimiser : torch.optim.Optimizer
    order : torch.Generator
        Draws the order of the samples.
    history : list of dict
        One for each finished epoch.
    fitted : float
        Share of labels predicted during the last epoch.
    seconds : float
        Training time so far.
    readings : list of dict
        What was measured along the training.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    order: torch.Generator
    history: list[dict[str, float]] = field(default_factory=list)
    fitted: float = 0.0
    seconds: float = 0.0
    readings: list[dict[str, Any]] = field(default_factory=list)


class Checkpoint:
    """A file that holds the state of one training.

    Parameters
    ----------
    path : Path
        The file, in safetensors format: reading it runs no code.
    settings : dict
        What the training depends on. A file with other settings is not used.
    images, labels : Tensor
        The training data; the file stores their checksum.
    """

    def __init__(self, path: Path, settings: dict[str, Any], images: Tensor, labels: Tensor):
        self.path = path
        data = [zlib.crc32(part.numpy().tobytes()) for part in (images.cpu(), labels.cpu())]
        self._about = json.dumps({"settings": settings, "data": data}, sort_keys=True)
        self._saved = time.monotonic()

    def save(self, state: State) -> None:
        """Write the state, unless it was written within the last half minute.

        Raises
        ------
        OutputError
            If the file cannot be written; the previous one stays.
        """
        if time.monotonic() - self._saved < _EVERY:
            return
        tensors = {f"model.{name}": t for name, t in state.model.state_dict().items()}
        for place, values in state.optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{place}.{name}": torch.as_tensor(t) for name, t in values.items()
            }
        tensors |= {f"random.{name}": t for name, t in _random_states(state).items()}
        progress = {
            "history": state.history,
            "fitted": state.fitted,
            "seconds": state.seconds,
            "readings": state.readings,
        }
        about = {"about": self._about, "state": json.dumps(progress)}
        write_tensors(self.path, tensors, about)
        self._saved = time.monotonic()

    def restore(self, state: State) -> bool:
        """Load the file into `state`; return False if there is no usable file of this training."""
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("about") != self._about:
                logger.warning(
                    "%s belongs to a training with other settings or data: starting again",
                    self.path,
                )
                return False
            progress = json.loads(about["state"])
            self._put(state, tensors)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("%s is damaged (%s): starting again", self.path, reason)
            return False
        state.history, state.fitted = progress["history"], progress["fitted"]
        state.seconds = progress["seconds"]
        # Files of earlier versions have none.
        state.readings = progress.get("readings", [])
        logger.info("%s: going on after epoch %d", self.path, len(state.history))
        return True

    @staticmethod
    def _put(state: State, tensors: dict[str, Tensor]) -> None:
        own = state.model.state_dict()
        parameters = list(state.model.parameters())
        model = {name: tensors[f"model.{name}"] for name in own}
        if any(model[name].shape != own[name].shape for name in own):
            raise ValueError("its weights have other shapes")
        saved = state.optimiser.state_dict()
        for name, values in tensors.items():
            if name.startswith("optimiser."):
                _, place, key = name.split(".")
                parameter = parameters[int(place)]
                # In the parameter's own layout, which fused optimisers expect.
                like = torch.empty_like(parameter) if values.ndim else torch.empty(())
                saved["state"].setdefault(int(place), {})[key] = like.copy_(values)
        random = {name: tensors[f"random.{name}"] for name in _random_states(state)}
        # Everything is there, so the state is never restored in part.
        state.model.load_state_dict(model)
        state.optimiser.load_state_dict(saved)
        state.order.set_state(random["order"])
        torch.default_generator.set_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], next(state.model.parameters()).device)


def _random_states(state: State) -> dict[str, Tensor]:
    states = {"order": state.order.get_state(), "cpu": torch.default_generator.get_state()}
    device = next(state.model.parameters()).device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states

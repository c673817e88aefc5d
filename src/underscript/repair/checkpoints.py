"""Checkpoints that a training run kept: which files they are, and the training step of each."""

import glob
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..errors import DataError, ModelError, UnderscriptError
from .weights import fit_weights, load_weights

__all__ = ["Checkpoint", "find_checkpoints", "steps_in_names"]

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# The files in which Hugging Face keeps a model, the first that is there; the indices list shards.
_HUGGING_FACE = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# What its Trainer keeps beside the weights.
_NO_WEIGHTS = re.compile(r"optimizer|scheduler|scaler|rng_state|training_args")
_SHARD = re.compile(r"(.+)-\d+-of-\d+(\.safetensors|\.bin)")
# How trainers write a step into a name, the surest first.
_SPELLINGS = (
    re.compile(r"step[s]?[=_\-]?(\d+)", re.IGNORECASE),
    re.compile(r"checkpoint[=_\-](\d+)", re.IGNORECASE),
    re.compile(r"epoch[s]?[=_\-]?(\d+)", re.IGNORECASE),
)
# Keys of a step in a checkpoint, the finest first.
_KEYS = ("global_step", "step", "epoch")


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one training step.

    Attributes
    ----------
    step : int
        The training step, or the epoch, or the place in the order that was given.
    source : str
        The file, as messages name it.
    file : str or None
        The file to read, as `load_weights` takes it; None if `weights` are at hand.
    weights : mapping of str to Tensor, or None
        A state dict.
    """

    step: int
    source: str
    file: str | None = None
    weights: Mapping[str, Tensor] | None = None

    def load_into(self, model: nn.Module, *, quiet: bool = False) -> None:
        """Load the weights into a model, all of them or none.

        Parameters
        ----------
        quiet : bool
            Do not tell which part of a larger model was taken.

        Raises
        ------
        ModelError
            If they cannot be read without running code, or belong to another architecture.
        """
        try:
            if self.file is not None:
                load_weights(model, self.file, quiet=quiet)
            else:
                assert self.weights is not None
                fit_weights(model, self.weights, self.source, quiet=quiet)
        except ModelError as error:
            raise ModelError(str(error).replace("--weights: ", "checkpoints: ", 1)) from error


def find_checkpoints(checkpoints: Any) -> tuple[list[Checkpoint], list[str]]:
    """Return the checkpoints in the order of their steps, and what the user should know of it.

    Parameters
    ----------
    checkpoints : path, str, sequence or mapping
        A folder (of Lightning, of Hugging Face's Trainer, or of files of weights); a pattern such
        as ``ckpt/*.pt``, or ``ckpt/*.ckpt:model`` if the files hold several networks; a sequence
        of files, folders and state dicts; or a mapping from step to one of these.

    Returns
    -------
    list of Checkpoint
        Their steps ascend and differ.
    list of str
        Notes, one line each.

    Raises
    ------
    DataError
        If there are none, if two have the same step, or if only some of them have one.
    ModelError
        If one is neither a file of weights, nor a folder with one, nor a state dict.
    """
    if isinstance(checkpoints, Mapping):
        return _of_mapping(checkpoints)
    notes: list[str] = []
    ordered = False
    if isinstance(checkpoints, str | os.PathLike):
        given, part = _files(os.fspath(checkpoints), notes)
    elif isinstance(checkpoints, Sequence):
        given, part, ordered = list(checkpoints), "", True
    else:
        raise DataError(
            "checkpoints: expected a folder, a pattern of files, a sequence of files or a mapping "
            f"from step to file; found {type(checkpoints).__name__}"
        )
    if not given:
        raise DataError("checkpoints: expected at least one; found an empty sequence")
    if any(isinstance(one, Mapping) for one in given):
        found = [_one(place, place, one) for place, one in enumerate(given)]
        return found, ["checkpoints: steps are 0, 1, 2, … in the order given"]
    paths = list(dict.fromkeys(_weights_file(os.fspath(one)) for one in given))
    steps = _steps(paths, ordered, notes)
    found = [
        Checkpoint(step, str(path), f"{path}:{part}" if part else str(path))
        for step, path in zip(steps, paths, strict=True)
    ]
    if ordered:
        _tell_order(steps, notes)
    return sorted(found, key=lambda one: one.step), notes


def _of_mapping(checkpoints: Mapping[Any, Any]) -> tuple[list[Checkpoint], list[str]]:
    if not checkpoints:
        raise DataError("checkpoints: expected at least one; found an empty mapping")
    if all(isinstance(value, Tensor) for value in checkpoints.values()):
        raise DataError(
            "checkpoints: expected several; found one state dict. For one network use us.decode"
        )
    notes: list[str] = []
    for step in checkpoints:
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise DataError(f"checkpoints: expected whole numbers from 0 as steps; found {step!r}")
    found = [_one(step, step, one) for step, one in checkpoints.items()]
    _tell_order(list(checkpoints), notes)
    return sorted(found, key=lambda one: one.step), notes


def _one(step: int, name: int, given: Any) -> Checkpoint:
    """Return the checkpoint of a file or a state dict whose step is known."""
    if isinstance(given, Mapping):
        other = [key for key, value in given.items() if not isinstance(value, Tensor)]
        if other or not given:
            what = f"{other[0]!r}, which is no tensor" if other else "nothing"
            raise ModelError(
                f"checkpoints: expected a state dict of tensors for step {name}; it holds {what}"
            )
        return Checkpoint(step, f"the state dict of step {name}", weights=given)
    if isinstance(given, str | os.PathLike):
        path = _weights_file(os.fspath(given))
        return Checkpoint(step, str(path), str(path))
    raise ModelError(
        f"checkpoints: expected a file or a state dict for step {name}; found "
        f"{type(given).__name__}"
    )


def _tell_order(steps: Sequence[int], notes: list[str]) -> None:
    if list(steps) != sorted(steps):
        shown = ", ".join(map(str, sorted(steps)[:8])) + (", …" if len(steps) > 8 else "")
        notes.append(f"checkpoints: they were in no order; sorted by step: {shown}")


def _files(spec: str, notes: list[str]) -> tuple[list[str], str]:
    """Return the files that a folder holds or a pattern matches; and the part of ``FILE:PART``."""
    part = ""
    if os.path.isdir(spec):
        return _in_folder(Path(spec), notes), part
    found = [spec] if os.path.exists(spec) else sorted(glob.glob(spec, recursive=True))
    if not found and ":" in spec:
        pattern, _, part = spec.rpartition(":")
        found = sorted(glob.glob(pattern, recursive=True))
    found = [path for path in found if not _NO_WEIGHTS.search(os.path.basename(path))]
    if not found:
        raise DataError(f"checkpoints: no file matches {spec!r}")
    return found, part


def _in_folder(folder: Path, notes: list[str]) -> list[str]:
    """Return the checkpoints in a folder of Lightning, of Trainer, or of files of weights."""
    numbered = [path for path in sorted(folder.glob("checkpoint-*")) if path.is_dir()]
    kept = [path for path in numbered if _in_model_folder(path) is not None]
    if kept:
        return [str(path) for path in kept]
    files = [path for path in sorted(folder.iterdir()) if _is_weights(path)]
    if not files:
        # Lightning's are below: lightning_logs/version_0/checkpoints.
        files = sorted(path for path in folder.rglob("*.ckpt") if path.is_file())
    last = [path for path in files if re.match(r"last\b", path.stem)]
    if last and len(files) > len(last):
        files = [path for path in files if path not in last]
        notes.append(f"checkpoints: {last[0]} is left out: a copy of one of the others")
    if not files:
        raise DataError(
            f"checkpoints: {folder} holds none: no file that ends with {', '.join(_SUFFIXES)}, and "
            "no folder checkpoint-… with a model"
        )
    return [str(path) for path in files]


def _is_weights(path: Path) -> bool:
    return path.is_file() and path.suffix in _SUFFIXES and not _NO_WEIGHTS.search(path.name)


def _in_model_folder(folder: Path) -> Path | None:
    """Return the file or index of weights in a folder that Hugging Face wrote."""
    return next((folder / name for name in _HUGGING_FACE if (folder / name).is_file()), None)


def _weights_file(given: str) -> Path:
    """Return the file of weights that a path means: itself, its index, or the one in a folder."""
    path = Path(given)
    if path.is_dir():
        inside = _in_model_folder(path)
        if inside is None:
            own = [file for file in sorted(path.iterdir()) if _is_weights(file)]
            if len(own) != 1:
                raise ModelError(
                    f"checkpoints: {path} is a folder with {len(own)} files of weights; expected "
                    "one, or a model of Hugging Face"
                )
            inside = own[0]
        return inside
    if (shard := _SHARD.fullmatch(path.name)) is not None:
        index = path.with_name(f"{shard[1]}{shard[2]}.index.json")
        if index.is_file():
            return index
    if not path.is_file() and not (":" in given and Path(given.rpartition(":")[0]).is_file()):
        raise ModelError(f"checkpoints: {path} is not a file")
    return path


def _steps(paths: Sequence[Path], ordered: bool, notes: list[str]) -> list[int]:
    """Return the step of each file: of its name, else its own, else its place in the order."""
    if len(paths) == 1:
        return [next((s for s in (steps_in_names(paths), _own(paths)) if s is not None), [0])[0]]
    named = steps_in_names(paths)
    if named is not None:
        return named
    own = _own(paths)
    if own is not None and len(set(own)) == len(own):
        return own
    for steps in (own, *(_read(paths, find) for find in _readers(paths))):
        if steps is not None and (twice := _twice(steps, paths)):
            raise DataError(
                f"checkpoints: expected one a step; {twice[0]} and {twice[1]} are both of step "
                f"{twice[2]}"
            )
    without = [path for path in paths if _last_number(path.name) is None]
    if 0 < len(without) < len(paths) and not ordered:
        raise DataError(
            f"checkpoints: neither the name of {without[0]} nor the file tells its step, as others "
            "do; leave it out, or give a mapping from step to file"
        )
    notes.append(
        f"checkpoints: no steps in the names or the files; they are 0, 1, 2, … from {paths[0]}"
    )
    return list(range(len(paths)))


def _twice(steps: Sequence[int], paths: Sequence[Path]) -> tuple[Path, Path, int] | None:
    seen: dict[int, Path] = {}
    for step, path in zip(steps, paths, strict=True):
        if step in seen:
            return seen[step], path, step
        seen[step] = path
    return None


def steps_in_names(paths: Sequence[Path]) -> list[int] | None:
    """Return the steps that names tell, if they tell one of each file and all differ.

    >>> steps_in_names([Path("epoch=3-step=500.ckpt"), Path("epoch=4-step=625.ckpt")])
    [500, 625]
    >>> steps_in_names([Path("checkpoint-500/model.bin"), Path("checkpoint-1000/model.bin")])
    [500, 1000]
    >>> steps_in_names([Path("mlp2_0012.pt"), Path("mlp2_0013.pt")])
    [12, 13]
    >>> steps_in_names([Path("best.pt"), Path("mlp2_0013.pt")])
    """
    for find in _readers(paths):
        steps = _read(paths, find)
        if steps is not None and len(set(steps)) == len(steps):
            return steps
    return None


def _readers(paths: Sequence[Path]) -> list[Callable[[Path], int | None]]:
    """Return what reads a step from a path, the surest first.

    The name of a folder counts only if no two files share one.
    """
    apart = len({path.parent for path in paths}) == len(paths)

    def reader(find: Callable[[str], int | None], *, folders: bool) -> Callable[[Path], int | None]:
        def read(path: Path) -> int | None:
            step = find(path.name)
            return find(path.parent.name) if step is None and folders else step

        return read

    spelled = [reader(partial(_spelled, how), folders=apart) for how in _SPELLINGS]
    return [*spelled, reader(_last_number, folders=apart and len(paths) > 1)]


def _read(paths: Sequence[Path], find: Callable[[Path], int | None]) -> list[int] | None:
    found = [find(path) for path in paths]
    steps = [step for step in found if step is not None]
    return steps if len(steps) == len(found) else None


def _spelled(spelling: re.Pattern[str], name: str) -> int | None:
    found = spelling.findall(name)
    return int(found[-1]) if found else None


def _last_number(name: str) -> int | None:
    """Return the last whole number in a name; its ending does not count."""
    for ending in (*_SUFFIXES, ".index.json"):
        name = name.removesuffix(ending)
    # A loss or an accuracy, and Lightning's version of a name, are no steps.
    numbers = re.findall(r"\d+", re.sub(r"\d+\.\d+|[-_]v\d+$", "", name))
    return int(numbers[-1]) if numbers else None


def _own(paths: Sequence[Path]) -> list[int] | None:
    """Return the steps that checkpoints hold themselves, if all of them hold one."""
    held = [_held(path) for path in paths]
    for key in _KEYS:
        steps = [about[key] for about in held if key in about]
        if len(steps) == len(paths) and len(set(steps)) == len(steps):
            return steps
    finest = next((key for key in _KEYS if all(key in about for about in held)), None)
    return None if finest is None else [about[finest] for about in held]


def _held(path: Path) -> dict[str, int]:
    """Return what a checkpoint says of its step; no code in it is run."""
    about: Any = {}
    try:
        state = path.parent / "trainer_state.json"
        if state.is_file():
            about = json.loads(state.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as opened:
                about = opened.metadata() or {}
        elif path.suffix != ".json":
            about = torch.load(path, map_location="cpu", weights_only=True)
    except (UnderscriptError, KeyboardInterrupt):
        raise
    except Exception:  # a damaged file may raise anything; reading its weights says what is wrong
        return {}
    if not isinstance(about, Mapping):
        return {}
    held = {}
    for key in _KEYS:
        value = about.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int | float) and float(value).is_integer():
            held[key] = int(value)
    return held

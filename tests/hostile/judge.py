"""What became of a case: right, told, refused clearly, or a fault."""

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import underscript as us
from underscript.errors import UnderscriptError

RIGHT, TOLD, REFUSED, FAULT = "right", "told", "refused", "fault"

# The share of new inputs that a right decode of the blobs gets at least, and of flags that hold.
ENOUGH, HOLDS = 0.9, 0.85


@dataclass
class Case:
    """One situation.

    Attributes
    ----------
    group, name : str
        Where it comes from, and what it is.
    run : callable
        Does it, and returns what is to be judged.
    may : tuple of str
        What it may become: where it has to work, not "refused".
    """

    group: str
    name: str
    run: Callable[[], "Result"]
    may: tuple[str, ...] = (RIGHT, TOLD)


@dataclass
class Result:
    """What a case gave.

    Attributes
    ----------
    decoding : Decoding or None
        What was decoded; None if the case judged itself.
    test, true : Tensor or None
        New inputs, as `predict` takes them, and their classes.
    labels : ndarray of int64, shape (n,), or None
        True classes of the training data, by their place in the data set.
    given : ndarray or None
        Their given labels, by place.
    problem : str
        What is wrong, if the case judged itself.
    """

    decoding: Any = None
    test: Any = None
    true: Any = None
    labels: Any = None
    given: Any = None
    problem: str = ""


def judged(case: Case) -> tuple[str, str]:
    """Return what became of a case, and why."""
    try:
        with warnings.catch_warnings(), as_it_was():
            warnings.simplefilter("ignore")
            found = case.run()
            kind, why = _of_result(found)
    except UnderscriptError as error:
        text = str(error)
        if "\n" in text or len(text) > 700 or len(text) < 15:
            return FAULT, f"an unclear message: {text[:200]!r}"
        kind, why = REFUSED, text
    except Exception as error:
        return FAULT, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    if kind not in case.may:
        return FAULT, f"{kind}, where it should be {' or '.join(case.may)}: {why}"
    return kind, why


def _of_result(found: Result) -> tuple[str, str]:
    if found.problem:
        return FAULT, found.problem
    d = found.decoding
    if d is None:
        return RIGHT, ""
    told = bool(d.summary["contradictions"])
    problems = []
    issues = d.label_issues()
    if found.given is not None:
        mine = np.asarray(found.given)[issues.index.to_numpy()]
        text = mine.dtype.kind in "UO"
        theirs = issues["given_name" if text else "given_label"].to_numpy()
        if not (theirs == mine).all():
            return FAULT, "given labels stand at other samples"
    if found.labels is not None:
        flagged = issues[issues["is_label_issue"]]
        wrong = np.asarray(found.labels)[flagged.index.to_numpy()] != flagged["given_label"]
        if len(flagged) and wrong.mean() < HOLDS:
            problems.append(f"of {len(flagged)} flags {wrong.mean():.0%} hold")
    if found.test is not None:
        right = float((d.best.predict(found.test) == np.asarray(found.true)).mean())
        if right < ENOUGH:
            problems.append(f"{right:.0%} of new inputs are right")
    if not problems:
        return (TOLD if told else RIGHT), d.verdict
    hopeless = bool((d.summary["noise"] or {}).get("hopeless"))
    if told or hopeless or d.summary["warnings"]:
        return TOLD, "; ".join(problems)
    return FAULT, "; ".join(problems)


@contextmanager
def as_it_was() -> Iterator[None]:
    """Run the block, and see to it that random states and torch's settings are as before.

    Raises
    ------
    AssertionError
        If one is not.
    """
    before = _settings()
    yield
    after = _settings()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed: {', '.join(changed)}"


def _settings() -> dict[str, Any]:
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": repr(np.random.get_state()[1:3]),  # noqa: NPY002 - the user's own
        "python's random state": hash(random.getstate()),
        "the default dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def untouched(net: nn.Module, run: Callable[[], Any]) -> Any:
    """Return what `run` returns; the network must be as before.

    Raises
    ------
    AssertionError
        If it has hooks, another mode, or other weights.
    """
    modes = [module.training for module in net.modules()]
    weights = copy.deepcopy(net.state_dict())
    try:
        return run()
    finally:
        assert modes == [module.training for module in net.modules()], "modes changed"
        left = sum(
            len(hooks)
            for module in net.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
            if not isinstance(module, torch.jit.ScriptModule)
        )
        allowed = sum(
            type(hook).__module__.startswith("torch.nn.utils")
            for module in net.modules()
            if not isinstance(module, torch.jit.ScriptModule)
            for hook in module._forward_pre_hooks.values()
        )
        assert left == allowed, f"{left - allowed} hooks are left"
        for name, value in net.state_dict().items():
            same = isinstance(value, Tensor) and torch.equal(value, weights[name])
            assert same, f"{name} changed"


def decoded(net: nn.Module | None, train: Any, *data: Any, **settings: Any) -> us.Decoding:
    """Decode quietly, without controls unless they are asked for; the network stays as it is."""
    settings = {"controls": False, "progress": False} | settings
    run: Callable[[], us.Decoding] = lambda: us.decode(net, train, *data, **settings)  # noqa: E731
    return untouched(net, run) if isinstance(net, nn.Module) else run()

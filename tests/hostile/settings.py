"""Settings that make no sense or are unusual, sources that contradict, and surroundings."""

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from situation_data import features, mlp

import underscript as us
from hostile.judge import REFUSED, RIGHT, TOLD, Case, Result, decoded, untouched
from hostile.networks import base
from hostile.shared import ANY, DATA, GIVEN, NEVER, TRUE, WORKS, X, result

BAD_SETTINGS: dict[str, Any] = {
    "layers": ["nowhere", "", [], 3, ["fc1", "nowhere"]],
    "probes": ["masc", [], ["nothing"]],
    "variance": [0.0, 1.5, -1, [], "much", float("nan")],
    "labels": [np.zeros(3, int), np.zeros((600, 2)), "none", np.full(600, -1)],
    "true_labels": [np.zeros(3, int), np.full(600, 1.5)],
    "device": ["gpu", "cuda:99", "meta0"],
    "batch_size": [0, -5],
    "evaluate": ["train", ["nowhere"]],
    "subspace_labels": ["true", ["false"]],
    "memory": ["much", "0", -1, "1 parsec", "1MB"],
    "pool": ["0x0", "most", ["mean", "nothing"]],
    "class_names": [["a"], "abcd", [1, 2, 3, 4], ["a", "b", "c", ""]],
    "perturb": ["some", 3],
    "views": [0, -1, 1.5, True],
}
GOOD_SETTINGS: dict[str, list[Any]] = {
    "layers": ["a.0.fc*", ["input"], lambda name, _module: name.endswith("fc1")],
    "probes": [["masc"], ["velpic", "masc"]],
    "variance": [0.5, [0.9, 0.99]],
    "batch_size": [1, 7, 100_000],
    "memory": ["200MB", 2**40],
    "views": [1, 5],
    "perturb": ["none", lambda x: x + 0.1 * torch.randn_like(x)],
    "controls": ["full", True],
    "auto": [False],
    "class_names": [["ant", "bee", "cat", "dog"], ["a", "a", "b", "=cmd"]],
    "seed": [-1, 2**40],
    "evaluate": [("train", "test"), ()],
}


def settings() -> Iterator[Case]:
    """One setting at a time."""
    for name, values in BAD_SETTINGS.items():
        for value in values:
            yield Case(
                "settings",
                f"{name}={value!r}"[:60],
                lambda name=name, value=value: result(decoded(base(), (X, GIVEN), **{name: value})),
                NEVER,
            )
    for name, values in GOOD_SETTINGS.items():
        for number, value in enumerate(values):
            text = f"{name}={value!r}" if not callable(value) else f"{name}=a function ({number})"
            # MASC and fits without a perturbation are no judges of memory.
            weak = name in ("auto", "probes") or value == "none"
            test = None if weak else DATA.test
            yield Case(
                "settings",
                text[:60],
                lambda name=name, value=value, test=test: Result(
                    decoded(base(), (X, GIVEN), **{name: value}),
                    test,
                    DATA.test_true,
                    None,
                    GIVEN.numpy(),
                ),
            )


def sources() -> Iterator[Case]:
    """Sources that contradict each other must be told in the verdict."""

    def told(run: Callable[[], us.Decoding], word: str) -> Result:
        d = run()
        return Result(problem="" if word in d.verdict else f"{word!r} is not in {d.verdict!r}")

    held = (DATA.test, DATA.test_true)
    wrong = torch.roll(GIVEN, 1)
    cases: dict[str, tuple[Callable[[], us.Decoding], str]] = {
        "a clean hold-out": (lambda: decoded(base(), (X, GIVEN), None, held), "cleaner"),
        "the test data are training data": (
            lambda: decoded(base(), (X, GIVEN), (X, GIVEN)),
            "in the training data",
        ),
        "half of the test data are": (
            lambda: decoded(
                base(),
                (X, GIVEN),
                (
                    torch.cat([X[:100], DATA.test[:100]]),
                    torch.cat([GIVEN[:100], DATA.test_true[:100]]),
                ),
            ),
            "in the training data",
        ),
        "the hold-out is training data": (
            lambda: decoded(base(), (X, GIVEN), None, (X[:200], GIVEN[:200])),
            "in the training",
        ),
        "the test data are the hold-out": (
            lambda: decoded(base(), (X, GIVEN), held, held),
            "in the hold-out",
        ),
        "labels of other samples": (lambda: decoded(base(), (X, wrong)), "chance"),
        "a network that was never trained": (lambda: decoded(mlp(), (X, GIVEN)), "chance"),
        "classes in another order": (lambda: decoded(base(), (X, (GIVEN + 1) % 4)), "chance"),
        "labels that are noise": (
            lambda: decoded(
                mlp(), (X, torch.randint(4, (600,), generator=torch.Generator().manual_seed(0)))
            ),
            "chance",
        ),
    }
    for name, (run, word) in cases.items():
        yield Case("sources", name, lambda run=run, word=word: told(run, word))
    others: dict[str, tuple[Callable[[], us.Decoding], tuple[str, ...]]] = {
        "test data of another width": (
            lambda: decoded(base(), (X, GIVEN), (DATA.test[:, :5], DATA.test_true)),
            NEVER,
        ),
        "test data without labels": (lambda: decoded(base(), (X, GIVEN), DATA.test), NEVER),
        "an empty hold-out": (
            lambda: decoded(base(), (X, GIVEN), None, (DATA.test[:0], DATA.test_true[:0])),
            NEVER,
        ),
        "a hold-out of one class": (
            lambda: decoded(
                base(), (X, GIVEN), None, (DATA.test, torch.zeros_like(DATA.test_true))
            ),
            ANY,
        ),
        "a hold-out of three": (
            lambda: decoded(base(), (X, GIVEN), None, (DATA.test[:3], DATA.test_true[:3])),
            WORKS,
        ),
        "a test label beyond the read-out": (
            lambda: decoded(base(), (X, GIVEN), (DATA.test, DATA.test_true + 4)),
            NEVER,
        ),
        "the data twice": (
            lambda: decoded(base(), (torch.cat([X, X]), torch.cat([GIVEN, GIVEN]))),
            WORKS,
        ),
    }
    for name, (run, may) in others.items():
        yield Case("sources", name, lambda run=run: Result(run()), may)
    for sizes in ([1000, 300, 100, 30, 10], [500, 500, 5], [400, 4]):
        for noise in (0.0, 0.1):
            yield Case(
                "sources",
                f"classes of {sizes}, noise {noise}",
                lambda sizes=sizes, noise=noise: _no_worse(sizes, noise),
            )
    for scale in (1e-6, 1e-3, 1e3, 1e6, 1e12):
        yield Case(
            "sources",
            f"inputs times {scale:g}",
            lambda scale=scale: Result(
                decoded(None, (X * scale, GIVEN)), DATA.test * scale, DATA.test_true, TRUE.numpy()
            ),
        )
        yield Case("sources", f"one column times {scale:g}", lambda scale=scale: _column(scale))
    yield Case(
        "sources",
        "a constant column",
        lambda: Result(
            decoded(None, (torch.cat([X, torch.ones(600, 1)], 1), GIVEN)),
            torch.cat([DATA.test, torch.ones(300, 1)], 1),
            DATA.test_true,
        ),
    )
    yield Case(
        "sources",
        "inputs that are all the same",
        lambda: Result(decoded(None, (torch.ones(600, 20), GIVEN))),
        ANY,
    )


def _no_worse(sizes: list[int], noise: float) -> Result:
    x, given, true = features(16, len(sizes), noise, sizes)
    d = decoded(None, (x, given))
    before, after = (given == true).mean(), (d.relabel()["label"].to_numpy() == true).mean()
    worse = f"{before:.1%} of the labels were right, {after:.1%} are" if after < before else ""
    return Result(problem=worse)


def _column(scale: float) -> Result:
    x, test = X.clone(), DATA.test.clone()
    x[:, 0] *= scale
    test[:, 0] *= scale
    return Result(decoded(None, (x, GIVEN)), test, DATA.test_true, TRUE.numpy())


def surroundings() -> Iterator[Case]:
    """What a user's program has set, or does beside."""

    def inside(enter: Callable[[], Any]) -> Callable[[], Result]:
        def run() -> Result:
            with enter():
                return result(decoded(base(), (X, GIVEN)))

        return run

    yield Case("surroundings", "autocast", inside(lambda: torch.autocast("cpu", torch.bfloat16)))
    yield Case("surroundings", "inference mode", inside(torch.inference_mode))
    yield Case("surroundings", "no gradients", inside(torch.no_grad))
    yield Case(
        "surroundings",
        "anomaly detection",
        inside(lambda: torch.autograd.detect_anomaly(check_nan=True)),
    )
    yield Case("surroundings", "a default device", inside(lambda: torch.device("meta")))
    yield Case("surroundings", "float64 by default", _float64)
    yield Case("surroundings", "in a thread", _thread)
    yield Case("surroundings", "training mode", _training)
    yield Case("surroundings", "two at once", _two_at_once)
    yield Case("surroundings", "hooks of one's own", _own_hook)
    yield Case("surroundings", "twice, the same numbers", _twice)
    for interrupt in (KeyboardInterrupt, MemoryError, ValueError):
        yield Case(
            "surroundings",
            f"{interrupt.__name__} in the network",
            lambda interrupt=interrupt: _interrupted(interrupt),
        )
    yield from kept_runs()


def _float64() -> Result:
    torch.set_default_dtype(torch.float64)
    try:
        return result(decoded(base(), (X, GIVEN)))
    finally:
        torch.set_default_dtype(torch.float32)


def _thread() -> Result:
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(decoded(base(), (X, GIVEN))))
    worker.start()
    worker.join()
    return result(found[0]) if found else Result(problem="nothing came of it")


def _two_at_once() -> Result:
    found: list[Any] = []
    nets = [copy.deepcopy(base()) for _ in range(2)]
    workers = [
        threading.Thread(
            target=lambda net=net: found.append(
                us.decode(net, (X, GIVEN), controls=False, progress=False)
            )
        )
        for net in nets
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if len(found) < 2:
        return Result(problem="one of two decodes at once was lost")
    same = (found[0].label_issues() == found[1].label_issues()).all().all()
    return result(found[0]) if same else Result(problem="two decodes at once differ")


def _training() -> Result:
    net = copy.deepcopy(base()).train()
    return result(decoded(net, (X, GIVEN)))


def _own_hook() -> Result:
    net = copy.deepcopy(base())
    seen: list[int] = []
    handle = next(net.modules()).register_forward_hook(lambda *_: seen.append(1))
    d = us.decode(net, (X, GIVEN), controls=False, progress=False)
    there = len(next(net.modules())._forward_hooks) == 1
    handle.remove()
    return result(d) if seen and there else Result(problem="the user's hook is gone")


def _twice() -> Result:
    first, second = (decoded(base(), (X, GIVEN)) for _ in range(2))
    same = (first.label_issues() == second.label_issues()).all().all()
    return result(first) if same else Result(problem="the same decode gives other numbers")


def _interrupted(interrupt: type[BaseException]) -> Result:
    net = copy.deepcopy(base())
    calls: list[int] = []

    class Stops(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: torch.Tensor) -> Any:
            calls.append(1)
            if len(calls) > 6:
                raise interrupt
            return self.inner(x)

    stops = Stops().eval()
    try:
        untouched(stops, lambda: us.decode(stops, (X, GIVEN), controls=False, progress=False))
    except (interrupt, us.errors.UnderscriptError):
        return Result()
    return Result(problem="it went on")


def kept_runs() -> Iterator[Case]:
    """What is done with a result, and with a folder that keeps it."""

    def used(use: Callable[[us.Decoding, Path], str]) -> Callable[[], Result]:
        def run() -> Result:
            d = decoded(base(), (X, GIVEN))
            with TemporaryDirectory() as folder:
                return Result(problem=use(d, Path(folder)))

        return run

    def loaded(d: us.Decoding, folder: Path) -> str:
        d.save(folder / "run")
        again = us.load(folder / "run", base())
        same = (again.best.predict(DATA.test) == d.best.predict(DATA.test)).all()
        return "" if same else "a loaded run answers otherwise"

    def other_weights(d: us.Decoding, folder: Path) -> str:
        d.save(folder / "run")
        us.load(folder / "run", mlp())
        return "other weights were taken"

    def damaged(name: str) -> Callable[[us.Decoding, Path], str]:
        def use(d: us.Decoding, folder: Path) -> str:
            d.save(folder / "run")
            path = folder / "run" / name
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            us.load(folder / "run", base())
            return f"a damaged {name} was read"

        return use

    def over_a_file(d: us.Decoding, folder: Path) -> str:
        (folder / "run").write_text("mine")
        d.save(folder / "run")
        return "a file was replaced"

    def over_a_folder(d: us.Decoding, folder: Path) -> str:
        (folder / "run").mkdir()
        (folder / "run" / "mine.txt").write_text("mine")
        d.save(folder / "run")
        return "a folder was replaced"

    def transferred(d: us.Decoding, _folder: Path) -> str:
        told = d.summary["transfer"]
        if "impossible" in told:
            return ""
        with torch.no_grad():
            real = (d.transfer()(X).argmax(1).numpy() == d.best.predict(X)).mean()
        return "" if real > 0.9 else f"the written network agrees for {real:.0%}"

    yield Case("runs", "saved and loaded", used(loaded))
    yield Case("runs", "loaded with other weights", used(other_weights), NEVER)
    for name in ("results.json", "layers.csv", "decoder/model.safetensors", "decoder/config.json"):
        yield Case("runs", f"half of {name}", used(damaged(name)), NEVER)
    yield Case("runs", "saved over a file", used(over_a_file), NEVER)
    yield Case("runs", "saved over somebody's folder", used(over_a_folder), NEVER)
    yield Case("runs", "no folder there", lambda: Result(us.load("nowhere")), NEVER)
    yield Case("runs", "the read-out written", used(transferred))
    yield Case(
        "runs",
        "predict nothing",
        used(lambda d, _f: str(d.best.predict(X[:0]).size or "")),
        (RIGHT, TOLD, REFUSED),
    )
    yield Case(
        "runs", "predict another width", used(lambda d, _f: str(d.best.predict(X[:, :4]))), NEVER
    )
    yield Case(
        "runs", "predict a NaN", used(lambda d, _f: str(d.best.predict(X * float("nan")))), NEVER
    )

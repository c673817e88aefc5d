"""Run folders that predict by themselves: a decoder and its network as a list of operators."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import models
import underscript as us
from underscript.errors import DataError, ModelError, OutputError
from underscript.repair.recording import GRAPH_FILE, RecordedDecoder

# These networks know nothing: how to perturb their inputs is not asked here.
pytestmark = pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning")

MASC: dict[str, Any] = {"auto": False, "probes": ("masc",), "variance": 0.8}
LAST = {"controls": False, "progress": False}


def decoded(name: str, **options: Any) -> tuple[us.Decoding, Tensor, nn.Module]:
    model, (x, y) = models.build(name, seed=3), models.data_for(name, 60)
    layers = [layer for layer in us.list_layers(model, (x, y))["layer"] if layer != "input"]
    return us.decode(model, (x, y), layers=layers[-1:], **LAST, **options), x, model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, us.Decoding, Tensor]:
    decoding, x, _ = decoded("mlp")
    folder = tmp_path_factory.mktemp("recorded") / "run"
    decoding.save(folder)
    return folder, decoding, x


# attention fixes its batch size, which no tracing allows: see below.
EVERY = sorted(models.MODELS.keys() - {"attention"})
QUICK = {("mlp", "auto"), ("residual", "masc")}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name,
            options,
            id=f"{name}-{kind}",
            marks=() if (name, kind) in QUICK else pytest.mark.slow,
        )
        for name in EVERY
        for kind, options in (("auto", {}), ("masc", MASC))
    ],
)
def test_a_loaded_run_predicts_without_the_models_class(tmp_path, name, options):
    decoding, x, model = decoded(name, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    decoding.save(tmp_path / "run")
    assert decoding.summary["recorded"] is None
    alone = us.load(tmp_path / "run")
    assert alone.best.model is None
    expected = decoding.best.decision_function(x)
    for part in (slice(None), slice(0, 1), slice(5, 12)):
        np.testing.assert_allclose(
            alone.best.decision_function(x[part]), expected[part], rtol=1e-4, atol=2e-5
        )
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_loaded_run_can_be_saved_again_and_still_predicts(run, tmp_path):
    folder, decoding, x = run
    us.load(folder).save(tmp_path / "again")
    again = us.load(tmp_path / "again")
    assert again.best.predict(x).tolist() == decoding.best.predict(x).tolist()


def test_texts_of_other_lengths_are_predicted_as_the_network_predicts_them(tmp_path):
    decoding, x, _ = decoded("transformer")
    decoding.save(tmp_path / "run")
    alone = us.load(tmp_path / "run")
    longer = torch.cat([x, x[:, :3]], 1)
    np.testing.assert_allclose(
        alone.best.decision_function(longer), decoding.best.decision_function(longer), atol=1e-5
    )


def test_the_network_can_be_left_out(tmp_path):
    decoding, x, model = decoded("mlp")
    decoding.save(tmp_path / "run", network=False)
    assert not (tmp_path / "run" / "decoder" / GRAPH_FILE).exists()
    with pytest.raises(ModelError, match=r"us\.load\(folder, model=…\).*without its network"):
        us.load(tmp_path / "run").best.predict(x)
    with_model = us.load(tmp_path / "run", model=model)
    assert with_model.best.predict(x).tolist() == decoding.best.predict(x).tolist()


class Counting(nn.Module):
    """Counts its calls in a buffer, which changes while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 6)
        self.out = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(self.fc(x).relu())


@pytest.mark.parametrize("kind", ["a fixed batch", "changing buffers"])
def test_a_network_that_cannot_be_kept_says_why_and_the_run_is_saved(tmp_path, kind):
    if kind == "a fixed batch":
        decoding, x, model = decoded("attention")
        why = r"x\.shape\[0\]"
    else:
        model, (x, y) = Counting().eval(), models.data_for("mlp", 60)
        decoding = us.decode(model, (x, y), layers=["fc"], **LAST)
        why = "changes its own buffers|calls"
    decoding.save(tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "results.json").read_text())["recorded"]
    assert stored == decoding.summary["recorded"]
    with pytest.raises(ModelError, match=why):
        us.load(tmp_path / "run").best.predict(x)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.zeros(4, 11), r"shape \(n, 12\); found \(4, 11\)"),
        (torch.zeros(4, 12, dtype=torch.int64), "float32; found int64"),
        (torch.zeros(4, 12, 2), r"found \(4, 12, 2\)"),
    ],
    ids=["another width", "whole numbers", "another rank"],
)
def test_inputs_that_do_not_fit_are_refused(run, inputs, said):
    with pytest.raises(DataError, match=said):
        us.load(run[0]).best.predict(inputs)


# A recording is data: whatever it names, nothing but torch's computing operators is called.
FOREIGN = [
    "os.system",
    "torch.os.system",
    "torch.load",
    "operator.attrgetter",
    "builtins.eval",
    "aten.from_file.default",
    "aten.__class__.mro",
    "aten.add",
    "quantized.linear.default",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_operator_is_refused_before_anything_runs(run, name):
    folder, _, _ = run
    recorded = RecordedDecoder.read(folder / "decoder")
    assert recorded is not None
    graph = json.loads(json.dumps(recorded.graph))
    graph["steps"].insert(0, {"name": "w0", "run": name, "args": ["touch here"], "kwargs": {}})
    with pytest.raises(ModelError, match="only compute"):
        RecordedDecoder(graph, recorded.tensors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: graph.update(format=99), "expected format 1; found 99"),
        (lambda graph: graph.pop("steps"), "damaged"),
        (lambda graph: graph["steps"][0].update(run="os.system"), "only compute"),
    ],
    ids=["another format", "cut off", "foreign"],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(run, tmp_path, change, said):
    _, decoding, _ = run
    decoding.save(tmp_path / "run")
    path = tmp_path / "run" / "decoder" / GRAPH_FILE
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))
    with pytest.raises(OutputError, match=said) as caught:
        us.load(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_the_file_of_issues_is_sorted_and_reads_back_in_the_datas_order(tmp_path, run):
    folder, decoding, _ = run
    written = pd.read_csv(folder / "label_issues.csv")
    assert written.columns[0] == "index"
    assert written["label_quality"].is_monotonic_increasing
    pd.testing.assert_frame_equal(us.load(folder).label_issues(), decoding.label_issues())

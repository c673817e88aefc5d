"""A network decoded together with earlier checkpoints of it: the same layers, the same promises."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
import underscript as us
from small_decodes import GIVEN, HOLD_GIVEN, HOLD_X, MODEL, TEST_X, TEST_Y, X
from underscript.activations.together import Together
from underscript.errors import DataError, ModelError, UnderscriptWarning

pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class")
CHECKPOINTS = {step: models.build("mlp", seed=step).state_dict() for step in (1, 20)}
STEPS = ("step=1/", "step=20/", "")


def decoded(checkpoints: Any = CHECKPOINTS, model: Any = MODEL, **options: Any) -> us.Decoding:
    defaults = {"controls": False, "progress": False, "holdout": (HOLD_X, HOLD_GIVEN)}
    options = defaults | options
    return us.decode(model, (X, GIVEN), (TEST_X, TEST_Y), checkpoints=checkpoints, **options)


@pytest.fixture(scope="module")
def together() -> us.Decoding:
    """Without the input among its layers, so that the decoder reads checkpoints."""
    return decoded(layers="relu*", controls=True)


def test_each_checkpoints_layers_are_read_as_they_are_alone_and_the_input_once():
    meter = decoded().memory.set_index("layer")
    assert list(meter.index) == ["input", *(f"{s}{n}" for s in STEPS for n in ("relu1", "relu2"))]
    for step, state in CHECKPOINTS.items():
        model = models.build("mlp", seed=7)
        model.load_state_dict(state)
        alone = decoded(None, model).memory.set_index("layer")
        mine = meter.loc[[f"step={step}/relu1", f"step={step}/relu2"]]
        # The network alone chooses how inputs are perturbed.
        for column in ("plain", "holdout"):
            assert mine[column].tolist() == alone.loc[["relu1", "relu2"], column].tolist()
    assert meter.loc["relu1"].equals(decoded(None).memory.set_index("layer").loc["relu1"])


@pytest.mark.slow
def test_a_run_predicts_by_itself_and_with_its_networks(together, tmp_path):
    assert together.best.steps, "the test needs a decoder that reads checkpoints"
    expected = together.best.decision_function(TEST_X)
    together.save(tmp_path / "run")
    # The network without its checkpoints predicts with what the run kept.
    for given in ((), (MODEL,), (MODEL, CHECKPOINTS)):
        best = us.load(tmp_path / "run", *given).best
        np.testing.assert_allclose(best.decision_function(TEST_X), expected, atol=1e-4)
    module = us.load(tmp_path / "run", MODEL, CHECKPOINTS).best.module
    np.testing.assert_allclose(module(TEST_X).detach().numpy(), expected, atol=1e-4)
    needs = r"checkpoints of steps .* us.load\(folder, model=…, checkpoints=…\)"
    with pytest.raises(ModelError, match=needs):
        _ = us.load(tmp_path / "run", MODEL).best.module
    swapped = dict(zip(CHECKPOINTS, reversed(CHECKPOINTS.values()), strict=True))
    with pytest.raises(ModelError, match="has other weights than when it was decoded"):
        us.load(tmp_path / "run", MODEL, swapped)
    with pytest.raises(ModelError, match="reads step"):
        us.load(tmp_path / "run", MODEL, {500: CHECKPOINTS[1]})
    with pytest.raises(ModelError, match="expected one, found none"):
        us.load(tmp_path / "run", None, CHECKPOINTS)


def test_only_the_networks_own_read_out_is_rewritten(together):
    repaired = together.transfer()
    assert type(repaired) is type(MODEL)
    changed = {
        name
        for name, value in repaired.state_dict().items()
        if not torch.equal(value, MODEL.state_dict()[name])
    }
    assert changed <= {"readout.weight", "readout.bias"}
    assert together.best.model is MODEL
    assert together.summary["model"]["class"] == type(MODEL).__name__
    assert together.summary["model"]["parameters"] == sum(p.numel() for p in MODEL.parameters())


def test_controls_report_and_label_issues_follow(together, tmp_path):
    random = together.table[together.table["model"] == "random"]
    assert set(together.best.layers) <= set(random["layer"])
    assert len(together.label_issues()) == len(X)
    together.report(tmp_path / "r.html")
    assert "step=1/relu1" in (tmp_path / "r.html").read_text()
    assert together.summary["checkpoints"]["steps"] == [1, 20]
    # Checkpoints are no depths of one network: each is a line of its own. The input is the first.
    lines = us.plots.layer_curve(together).get_lines()
    (line,) = (line for line in lines if line.get_label() == "decoded, given labels")
    assert np.isnan(line.get_ydata()).tolist() == [False, *[True, False, False] * 3]


def test_the_network_and_the_checkpoints_are_left_as_they_were():
    model = copy.deepcopy(MODEL).train()
    states = {1: copy.deepcopy(CHECKPOINTS[1])}
    decoded(states, model)
    assert all(module.training for module in model.modules())
    for found, expected in ((model.state_dict(), MODEL.state_dict()), (states[1], CHECKPOINTS[1])):
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not any(module._forward_hooks for module in model.modules())


def test_of_equal_checkpoints_one_counts_and_the_networks_own_is_no_other():
    one = CHECKPOINTS[1]
    with pytest.warns(UnderscriptWarning, match=r"step 5\) has the same weights as .*step 1\)"):
        found = decoded({1: one, 5: one, 9: MODEL.state_dict()})
    assert found.summary["checkpoints"]["steps"] == [1]
    with pytest.warns(UnderscriptWarning, match="which is decoded alone"):
        found = decoded({9: MODEL.state_dict()})
    assert list(found.memory["layer"]) == ["input", "relu1", "relu2"]


def test_what_is_no_checkpoint_of_the_network_is_refused():
    with pytest.raises(ModelError, match=r"(?s)checkpoints: .*step 3"):
        decoded({1: CHECKPOINTS[1], 3: nn.Linear(2, 3).state_dict()})
    with pytest.raises(DataError, match="checkpoints: they are those of a model"):
        us.decode(None, (X, GIVEN), checkpoints=CHECKPOINTS)


def test_too_many_for_the_memory_are_chosen_evenly_by_step():
    many = {step: models.build("mlp", seed=step).state_dict() for step in range(1, 25)}
    with pytest.warns(UnderscriptWarning, match=r"\d+ of 24 are decoded, evenly chosen by step"):
        found = decoded(many, memory="3MB", layers="relu2")
    steps = found.summary["checkpoints"]["steps"]
    assert 2 <= len(steps) < 24
    assert (steps[0], steps[-1]) == (1, 24)
    gaps = np.diff(steps)
    assert gaps.max() - gaps.min() <= 1


class InPlace(nn.Module):
    """Changes its input."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.out = by, nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x.mul_(self.by))


def test_a_network_that_changes_its_input_does_not_change_that_of_the_others():
    own, other = InPlace(1.0), InPlace(3.0)
    x = torch.rand(5, 12)
    expected = own(x.clone())
    assert torch.equal(Together(own, {1: other})(x.clone()), expected)
    read: list[torch.Tensor] = []
    other.out.register_forward_pre_hook(lambda _module, args: read.append(args[0].clone()))
    Together(own, {1: other, 2: InPlace(2.0)})(x.clone())
    assert torch.equal(read[0], 3 * x)


def test_inputs_by_name_are_recorded_by_name(tmp_path):
    words, y = models.data("tokens", 60)
    x = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    torch.manual_seed(0)
    model, states = models.TextNet(), {1: models.TextNet().state_dict()}
    how = {"controls": False, "progress": False}
    found = us.decode(model, (x, y), layers="table@mean", checkpoints=states, **how)
    assert found.best.steps
    found.save(tmp_path / "run")
    assert found.summary["recorded"] is None
    expected = found.best.decision_function(x)
    again = us.load(tmp_path / "run").best.decision_function(x)
    np.testing.assert_allclose(again, expected, atol=1e-4)

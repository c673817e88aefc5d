"""A trace of checkpoints: each is decoded as by itself, one is recommended, none is done twice."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import models
import underscript as us
from small_decodes import GIVEN, HOLD_GIVEN, HOLD_X, TEST_X, TEST_Y, X
from underscript import _trace
from underscript.errors import DataError, ModelError, OutputError
from underscript.results.checkpoint_trace import COLUMNS, recommend

pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class")
CHECKPOINTS = {step: models.build("mlp", seed=step).state_dict() for step in (1, 2, 30)}


def traced(**options) -> us.Trace:
    defaults = {"test": (TEST_X, TEST_Y), "holdout": (HOLD_X, HOLD_GIVEN), "progress": False}
    options = defaults | options
    model = options.pop("model", models.build("mlp", seed=7))
    return us.trace(model, options.pop("checkpoints", CHECKPOINTS), (X, GIVEN), **options)


@pytest.fixture(scope="module")
def whole() -> us.Trace:
    return traced()


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The digests of the weights that are decoded, in turn."""
    seen: list[str] = []

    decoded = _trace.decoded

    def counting(request):
        seen.append(_trace.weights_of(request.model).hex())
        return decoded(request)

    monkeypatch.setattr(_trace, "decoded", counting)
    return seen


def test_each_checkpoint_is_decoded_as_it_is_alone(whole):
    model = models.build("mlp", seed=2)
    alone = us.decode(
        model,
        (X, GIVEN),
        (TEST_X, TEST_Y),
        (HOLD_X, HOLD_GIVEN),
        controls=False,
        progress=False,
    )
    (step,) = (one for one in whole.summary["steps"] if one["step"] == 2)
    assert step["estimate"] == alone.summary["noise"]["accuracy"]
    assert step["decoded_test"] == alone.summary["selected"]["test_accuracy"]
    rows = whole.table[whole.table["step"] == 2]
    own = rows[(rows["probe"] == "model") & (rows["split"] == "test")]["accuracy"]
    assert own.tolist() == [alone.summary["model"]["accuracy"]["test"]]
    meter = alone.memory.set_index("layer")
    mine = rows[rows["probe"] == "discriminant"].set_index("layer")
    assert mine["accuracy"].tolist() == meter["plain"].tolist()
    expected = (meter["plain"] - meter["corrected"].astype(float)).clip(lower=0)
    np.testing.assert_allclose(mine["memory"], expected)


def test_the_table_and_the_steps_are_complete_and_in_order(whole):
    assert tuple(whole.table.columns) == COLUMNS
    assert whole.table["step"].is_monotonic_increasing
    assert set(whole.table["step"]) == {1, 2, 30}
    assert whole.table["accuracy"].between(0, 1).all()
    assert whole.table["memory"].dropna().between(0, 1).all()
    assert whole.steps["step"].tolist() == [1, 2, 30]
    best = whole.steps["network_holdout"].idxmax()
    assert whole.network["step"] == whole.steps["step"][best]
    assert whole.recommended["step"] in (1, 2, 30)
    assert f"step {whole.recommended['step']}" in whole.verdict


def test_the_users_model_and_random_state_are_left_as_they_were():
    model = models.build("mlp", seed=7).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    traced(model=model, checkpoints={1: CHECKPOINTS[1]})
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def step(number, estimate, half, **more):
    about = {"estimate_low": estimate - half, "estimate_high": estimate + half, "hopeless": False}
    return {"step": number, "estimate": estimate, **about, **more}


def test_the_earliest_step_that_is_no_worse_than_the_estimate_is_unsure_is_recommended():
    steps = [step(1, 0.7, 0.01), step(5, 0.88, 0.2), step(9, 0.9, 0.02), step(20, 0.6, 0.1)]
    assert recommend(steps)["step"] == 5
    assert "step 9 has the most, 90.0%" in recommend(steps)["why"]
    steps[2] = step(9, 0.9, 0.01)
    assert recommend(steps)["step"] == 9
    assert "the most of all steps" in recommend(steps)["why"]
    hopeless = [step(1, 0.9, 0.1, hopeless=True)]
    assert recommend(hopeless)["step"] is None
    assert recommend([*hopeless, step(2, 0.3, 0.1)])["step"] == 2


def test_what_is_saved_is_loaded_and_nothing_else_is_replaced(whole, tmp_path):
    whole.save(tmp_path / "t")
    again = us.load_trace(tmp_path / "t")
    pd.testing.assert_frame_equal(again.table, whole.table)
    pd.testing.assert_frame_equal(again.steps, whole.steps)
    assert (again.recommended, again.verdict) == (whole.recommended, whole.verdict)
    kept = json.loads((tmp_path / "t" / "results.json").read_text())
    assert set(kept["recommended"]) == set(kept["network"]) == {"step", "why"}
    whole.save(tmp_path / "t")
    with pytest.raises(OutputError, match=r"trace of checkpoints, which us\.load_trace reads"):
        us.load(tmp_path / "t")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is not an underscript trace"):
        traced(out=tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="expected a trace of checkpoints"):
        us.load_trace(tmp_path / "other")
    (tmp_path / "t" / "trace.csv").write_text("step,layer\n1,fc1\n")
    with pytest.raises(OutputError, match=r"damaged: trace\.csv"):
        us.load_trace(tmp_path / "t")


def test_a_trace_that_was_stopped_goes_on_and_does_nothing_twice(
    whole, counted, tmp_path, monkeypatch
):
    write, done = _trace.write_step, []

    def killed(*parts):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(write(*parts))

    with monkeypatch.context() as patch:
        patch.setattr(_trace, "write_step", killed)
        with pytest.raises(KeyboardInterrupt):
            traced(out=tmp_path / "t")
    assert len(counted) == 3
    with pytest.raises(OutputError, match="unfinished"):
        us.load_trace(tmp_path / "t")
    counted.clear()
    went_on = traced(out=tmp_path / "t")
    assert len(counted) == 1
    assert [one["reused"] for one in went_on.summary["steps"]] == [True, True, False]
    pd.testing.assert_frame_equal(went_on.table, whole.table, check_dtype=False)


@pytest.mark.slow
def test_other_weights_labels_or_settings_are_decoded_again(counted, tmp_path):
    some = {1: CHECKPOINTS[1]}
    traced(checkpoints=some, out=tmp_path / "t")
    for changed, expected in (
        ({}, 0),
        ({"checkpoints": {1: CHECKPOINTS[30]}}, 1),
        ({"views": 1, "checkpoints": {1: CHECKPOINTS[30]}}, 1),
        ({"views": 1, "labels": np.roll(GIVEN, 1)}, 1),
    ):
        counted.clear()
        traced(**{"checkpoints": some} | changed, out=tmp_path / "t")
        assert len(counted) == expected, changed


def test_all_checkpoints_are_checked_before_the_first_is_decoded(counted):
    other = {5: {"fc1.weight": torch.zeros(2, 2)}}
    with pytest.raises(ModelError, match=r"^checkpoints: the state dict of step 5 does not fit"):
        traced(checkpoints=CHECKPOINTS | other)
    assert counted == []


def test_an_error_of_one_checkpoint_names_it(tmp_path):
    broken = {name: value * torch.nan for name, value in CHECKPOINTS[2].items()}
    with pytest.raises((DataError, ModelError, us.UnderscriptError), match=r"step 2"):
        traced(checkpoints={1: CHECKPOINTS[1], 2: broken}, out=tmp_path / "t")
    assert [path.name for path in (tmp_path / "t" / "steps").iterdir()] == ["1"]


def test_disorder_is_told():
    with pytest.warns(us.UnderscriptWarning, match="sorted by step: 1, 2"):
        t = traced(checkpoints={2: CHECKPOINTS[2], 1: CHECKPOINTS[1]}, holdout=None, test=None)
    assert t.network["step"] is None
    assert "hold-out" in t.network["why"]
    assert t.steps["step"].tolist() == [1, 2]


def test_wrong_names_say_what_to_use():
    with pytest.raises(TypeError, match=re.escape("use checkpoints=")):
        us.trace(models.build("mlp"), weights="x", train=(X, GIVEN))


@pytest.mark.slow
def test_the_recommended_step_is_nearly_the_best_of_a_real_training():
    x, true = load_digits(return_X_y=True)
    x, given = (x / 8 - 1).astype(np.float32), us.corrupt_labels(true, 0.4, seed=1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    kept = {}
    for epoch in range(201):
        if epoch in (1, 10, 20, 40, 80, 200):
            kept[epoch] = {k: v.clone() for k, v in network.state_dict().items()}
        optimiser.zero_grad()
        logits = network(torch.from_numpy(x[:1200]))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(given[:1200])).backward()
        optimiser.step()
    t = us.trace(
        network,
        kept,
        (x[:1200], given[:1200]),
        (x[1500:], true[1500:]),
        (x[1200:1500], given[1200:1500]),
        progress=False,
    )
    chosen = t.steps.set_index("step").loc[t.recommended["step"]]
    assert chosen["decoded_test"] > t.steps["decoded_test"].max() - 0.03
    # The network itself is best before it has memorised.
    own = t.steps.set_index("step")["network_test"]
    assert own[t.network["step"]] > own.max() - 0.05 > own[200]
    assert t.steps["memory"].iloc[-1] > t.steps["memory"].iloc[1] + 0.1

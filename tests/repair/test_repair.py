"""A copy of the network with a rewritten read-out, and cleaned labels."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import models
import underscript as us
from underscript.activations.hooks import extract_logits
from underscript.cli.command_line import main
from underscript.errors import DataError, ModelError, OutputError
from underscript.noise.posterior import posterior
from underscript.probes.discriminant import Covariance
from underscript.repair.read_out import relabelled

N = 240


def data(name: str) -> tuple[Any, Any, Any]:
    x, y = models.data_for(name, N)
    return x, y.numpy(), us.corrupt_labels(y.numpy(), 0.3, seed=1)


def decoded(name: str, model: nn.Module | None = None, **options: Any) -> Any:
    x, _, given = data(name)
    model = model or models.build(name, seed=3)
    # A share at which no class's subspace of the input is the whole space.
    options = {"controls": False, "progress": False, "variance": 0.5, **options}
    return us.decode(model, (x, given), **options), model, x


@pytest.fixture(scope="module")
def found() -> Any:
    x, y = models.data_for("mlp", 2 * N, seed=5)
    given = us.corrupt_labels(y.numpy(), 0.3, seed=2)
    return decoded("mlp", holdout=(x[N:], given[N:]))


def predictions(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return extract_logits(model(x.clone()), len(x), "").argmax(1).numpy()


# Transfer -------------------------------------------------------------------------------------


# Token numbers without a mask are not perturbed.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
@pytest.mark.parametrize("name", ["mlp", "residual", "transformer", "tuple", "dropout"])
def test_the_copy_differs_in_its_read_out_alone_and_is_better(name):
    decoding, model, x = decoded(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    repaired = decoding.transfer()
    assert type(repaired) is type(model)
    assert list(repaired.state_dict()) == list(before)
    target = decoding.summary["transfer"]["module"]
    for key, value in repaired.state_dict().items():
        same = torch.equal(value, before[key])
        assert same == (not key.startswith(f"{target}.")), key
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    _, true, _ = data(name)
    assert (predictions(repaired, x) == true).mean() > (predictions(model, x) == true).mean() + 0.2


def test_the_agreements_told_are_those_of_the_weights_written(found):
    decoding, _, x = found
    said = decoding.label_issues()["predicted_label"].to_numpy()
    told = decoding.summary["transfer"]
    for each in told["tried"]:
        model = decoding.transfer(each["weights"], each["bias"])
        agreement = (predictions(model, x) == said).mean()
        assert agreement == pytest.approx(each["agreement"], abs=1.5 / N)
        assert 0 <= each["holdout"] <= 1
    best = max(told["tried"], key=lambda each: each["agreement"])
    assert told["chosen"] == {"weights": best["weights"], "bias": best["bias"]}


def test_velpic_is_written_as_in_the_paper(found):
    decoding, model, x = found
    x, _, given = data("mlp")
    with torch.no_grad():
        rows = model[:4](x)
    expected = us.PrincipalVectorClassifier().fit(rows, given).vectors_
    zero = decoding.transfer("velpic", "zero").readout
    np.testing.assert_allclose(zero.weight.detach(), expected, atol=1e-5)
    assert not zero.bias.any()
    kept = decoding.transfer("velpic", "kept").readout
    assert torch.equal(kept.bias, model.readout.bias)
    refitted = decoding.transfer("velpic", "refitted").readout
    assert bool(refitted.bias.abs().sum() > 0)


def test_the_regression_is_fitted_to_soft_labels(found):
    decoding, _, x = found
    repaired = decoding.transfer("logistic", "refitted")
    soft = decoding.soft_labels().argmax(1)
    # Labels that were given are a part of what it is fitted to; the ensemble's are all of it.
    assert (predictions(repaired, x) == soft).mean() > 0.8


def test_a_network_that_is_right_may_keep_its_weights():
    x, y, _ = data("residual")
    options = {"controls": False, "progress": False, "variance": 0.5}
    right = us.decode(models.build("residual", seed=3), (x, y), **options).transfer()
    assert (predictions(right, x) == y).mean() > 0.97
    told = us.decode(right, (x, y), **options)
    own = next(e for e in told.summary["transfer"]["tried"] if e["weights"] == "own")
    assert own["agreement"] > 0.97
    same = told.transfer("own").state_dict()
    assert all(torch.equal(value, same[key]) for key, value in right.state_dict().items())


def test_a_read_out_without_a_bias_gets_the_regressions_folded_in():
    model = models.build("mlp", seed=3)
    model.readout.bias = None
    decoding, _, x = decoded("mlp", model)
    tried = [(e["weights"], e["bias"]) for e in decoding.summary["transfer"]["tried"]]
    assert tried == [("own", "zero"), ("logistic", "zero"), ("velpic", "zero")]
    repaired = decoding.transfer()
    assert repaired.readout.bias is None
    said = decoding.label_issues()["predicted_label"]
    assert (predictions(repaired, x) == said).mean() > 0.6


def test_the_vector_whose_products_are_one_is_that_of_least_squares():
    rows = torch.randn(500, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    covariance = torch.cov(rows.T, correction=0)
    found = Covariance(rows.mean(0), len(rows), covariance, [1e-9]).one()
    expected = torch.linalg.lstsq(rows, torch.ones(500, 1, dtype=torch.float64)).solution[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_class_that_the_data_lack_is_never_predicted():
    x, _, given = data("mlp")
    keep = given != 2
    with pytest.warns(us.UnderscriptWarning):
        decoding = us.decode(
            models.build("mlp", seed=3),
            (x[keep], given[keep]),
            controls=False,
            progress=False,
            variance=0.5,
        )
    for bias in ("refitted", "zero"):
        repaired = decoding.transfer("logistic", bias)
        assert all(torch.isfinite(value).all() for value in repaired.state_dict().values())
        if bias == "refitted":
            assert 2 not in predictions(repaired, x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 4, bias=False), nn.ReLU())
        self.readout = nn.Linear(4, 4)
        self.spare = nn.Linear(4, 4)
        self.spare.weight = self.readout.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.body(x))


def computed() -> nn.Module:
    model = models.build("mlp")
    nn.utils.parametrizations.weight_norm(model.readout)
    return model


IMPOSSIBLE = {
    "a convolution": ("conv-only", lambda: models.build("conv-only"), {}, r"'maps' is Conv2d"),
    "shared weights": ("mlp", Tied, {}, "shares its weights with 'spare.weight'"),
    "computed weights": ("mlp", computed, {}, "computed from others"),
    "another layer decoded": (
        "mlp",
        lambda: models.build("mlp"),
        {"layers": "relu1"},
        "decode with 'readout:input'",
    ),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_cannot_be_transferred_is_one_clear_line(kind):
    name, build, options, said = IMPOSSIBLE[kind]
    decoding, _, _ = decoded(name, build().eval(), **options)
    with pytest.raises(ModelError, match=said) as caught:
        decoding.transfer()
    assert "\n" not in str(caught.value)


def test_options_that_are_not_offered_are_refused(found):
    with pytest.raises(DataError, match="weights of logistic, velpic"):
        found[0].transfer("lda")
    with pytest.raises(DataError, match="'logistic' with bias='kept' is not offered"):
        found[0].transfer("logistic", "kept")


def test_after_loading_it_gives_the_same_weights(tmp_path, found):
    decoding, model, _ = found
    decoding.save(tmp_path / "run")
    read = us.load(tmp_path / "run", model)
    for ours, theirs in zip(
        decoding.transfer().state_dict().values(),
        read.transfer().state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    with pytest.raises(ModelError, match="loaded without it"):
        us.load(tmp_path / "run").transfer()
    with pytest.raises(ModelError, match="other weights"):
        us.load(tmp_path / "run", nn.Sequential(nn.Linear(12, 4)))
    read.best.model = nn.Sequential(nn.Linear(12, 4))
    with pytest.raises(ModelError, match=r"linear layer 'readout'.*\(4, 10\)"):
        read.transfer()
    (tmp_path / "run" / "decoder" / "readout.safetensors").write_bytes(b"cut")
    with pytest.raises(OutputError, match="damaged"):
        us.load(tmp_path / "run")


@pytest.mark.parametrize("held", [True, False])
def test_without_refinement_it_is_velpic(held):
    x, _, given = data("mlp")
    holdout = (x, given) if held else None
    decoding, _, _ = decoded("mlp", auto=False, holdout=holdout)
    assert (decoding.summary["transfer"] is None) == held, "no pass before somebody asks"
    decoding.transfer()
    tried = decoding.summary["transfer"]["tried"]
    assert [(e["weights"], e["bias"]) for e in tried] == [
        ("own", "kept"),
        ("velpic", "zero"),
        ("velpic", "kept"),
    ]
    assert ("velpic" in set(decoding.table["probe"])) is False
    assert all((each["holdout"] is not None) == held for each in tried)


# Relabel --------------------------------------------------------------------------------------


def test_labels_change_only_where_they_are_issues(found):
    decoding = found[0]
    cleaned, issues = decoding.relabel(), decoding.label_issues()
    assert list(cleaned.columns) == ["given_label", "label", "confidence", "changed"]
    assert cleaned.index.equals(issues.index)
    # Of flagged labels those that are likelier another's.
    assert not (cleaned["changed"] & ~issues["is_label_issue"]).any()
    assert (cleaned["changed"] | ~issues["is_label_issue"])[issues["label_quality"] < 0.3].all()
    assert (cleaned["confidence"] >= issues["label_quality"])[cleaned["changed"]].all()
    expected = issues["given_label"].where(~cleaned["changed"], issues["predicted_label"])
    assert (cleaned["label"] == expected).all()
    assert cleaned["confidence"].between(0, 1).all()
    kept = ~cleaned["changed"]
    assert (cleaned["confidence"][kept] == issues["label_quality"][kept]).all()


def test_the_confidence_of_a_new_label_is_bayes_rule():
    # Probabilities 0.7, 0.2, 0.1; the last class is given, and right with probability q.
    chances, quality = np.array([0.7, 0.2, 0.1]), 0.05
    issues = pd.DataFrame(
        {
            "is_label_issue": [True],
            "label_quality": [quality],
            "given_label": [2],
            "predicted_label": [0],
            "second_label": [1],
            "margin": [np.log(chances[2] / chances[0])],
            "confidence": [chances[0]],
        }
    )
    expected = (1 - quality) * chances[0] / (chances[0] + chances[1])
    assert relabelled(issues, True)["confidence"][0] == pytest.approx(expected)


# Soft labels ----------------------------------------------------------------------------------


def test_soft_labels_are_bayes_rule(found):
    decoding = found[0]
    x, _, given = data("mlp")
    soft, noise = decoding.soft_labels(), decoding.summary["noise"]
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    matrix = np.array(noise["transitions"])
    if not noise["by_class"]:
        # Labels count as redrawn from all other classes alike.
        off = noise["rate"] / (len(matrix) - 1)
        matrix = off + (1 - noise["rate"] - off) * np.eye(len(matrix))
    # No matrix is ever quite known: two labels in a hundred may be anything.
    matrix = 0.98 * matrix + 0.02 / len(matrix)
    # What memory adds to the odds of a given label counts against it.
    matrix[np.diag_indices_from(matrix)] *= np.exp(-noise.get("remembered", 0.0))
    joint = decoding.pred_probs((x, given)).astype(np.float64) * matrix[:, given].T
    # What the network's margins say of the label.
    joint[np.arange(N), given] *= np.exp(decoding._odds.by_margins.numpy())
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(soft, expected, rtol=1e-3, atol=1e-6)
    issues = decoding.label_issues()
    np.testing.assert_allclose(soft[np.arange(N), given], issues["label_quality"], atol=1e-5)


@pytest.mark.parametrize("by_class", [False, True])
def test_the_posterior_of_known_odds_and_noise_is_bayes_rule(found, by_class):
    draw, k = np.random.default_rng(0), 4
    odds, given = draw.normal(size=(50, k)), draw.integers(k, size=50)
    matrix = draw.dirichlet(np.ones(k), k)
    noise = replace(found[0]._noise, rate=0.3, transitions=matrix, by_class=by_class)
    margins = draw.normal(size=50)
    soft = posterior(*map(torch.from_numpy, (odds, margins, given)), noise)
    if not by_class:
        matrix = 0.1 + 0.6 * np.eye(k)
    matrix = 0.98 * matrix + 0.02 / k
    matrix[np.diag_indices(k)] *= np.exp(-getattr(noise, "remembered", 0.0))
    for row, added, label, mine in zip(odds, margins, given, soft.numpy(), strict=True):
        joint = np.exp(row) / np.exp(row).sum() * matrix[:, label]
        joint[label] *= np.exp(added)
        np.testing.assert_allclose(mine, joint / joint.sum(), rtol=1e-5)


def test_soft_labels_are_not_saved(found, tmp_path):
    decoding, model, _ = found
    decoding.save(tmp_path / "run")
    without = decoded("mlp", auto=False)[0]
    for other in (us.load(tmp_path / "run"), us.load(tmp_path / "run", model), without):
        with pytest.raises(
            DataError, match="soft_labels: the out-of-fold probabilities were not kept"
        ) as caught:
            other.soft_labels()
        assert "\n" not in str(caught.value)


# The commands ---------------------------------------------------------------------------------

USER = """
import models
def build():
    return models.build("mlp", seed=3)
"""


def test_the_commands_write_weights_and_labels(tmp_path, capsys, found):
    decoding, _, x = found
    (tmp_path / "mine.py").write_text(USER)
    decoding.save(tmp_path / "run")
    run = str(tmp_path / "run")
    out = tmp_path / "repaired.safetensors"
    model = ["--model", f"{tmp_path}/mine.py:build"]
    assert main(["transfer", run, *model, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen"] == decoding.summary["transfer"]["chosen"]
    assert main(["layers", f"{tmp_path}/mine.py:build", "--example", f"{tmp_path}/none.py:x"]) == 2
    from underscript.cli.user_objects import load_model

    repaired = load_model(f"{tmp_path}/mine.py:build", str(out))
    assert (predictions(repaired, x) == predictions(decoding.transfer(), x)).all()
    assert (
        main(
            [
                "transfer",
                run,
                *model,
                "--weights-from",
                "velpic",
                "--bias",
                "zero",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert main(["relabel", run, "--out", str(tmp_path / "labels.csv")]) == 0
    read = pd.read_csv(tmp_path / "labels.csv", index_col="index")
    pd.testing.assert_frame_equal(read, decoding.relabel(), check_index_type=False)

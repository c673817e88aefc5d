"""Ranks and angles of class subspaces, against bases that are written out."""

import numpy as np
import pytest

from underscript import MinimumAngleSubspaceClassifier
from underscript.results.geometry import geometry


@pytest.mark.parametrize("share", [0.6, 0.9, 0.999])
def test_angles_and_ranks_are_those_of_the_bases(share):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 12)) * np.geomspace(1, 0.05, 12)
    x[:, 5] = 0  # a dead feature
    y = rng.integers(0, 3, 300)
    x[y == 1] += 0.7
    x[y == 2, 7:] = 0  # one class uses fewer features than the others
    masc = MinimumAngleSubspaceClassifier(variance=share).fit(x, y)
    found = geometry({"fc": masc}, ["fc"])
    bases = [np.asarray(basis, dtype=float) for basis in masc.bases_]
    for row in found.to_dict("records"):
        a, b = row["class_a"], row["class_b"]
        assert row["rank"] == bases[a].shape[1]
        if a == b:
            values = masc.eigenvalues_[a][: bases[a].shape[1]]
            parts = values / values.sum()
            assert row["effective_rank"] == pytest.approx(np.exp(-(parts * np.log(parts)).sum()))
            assert 1 <= row["effective_rank"] <= row["rank"] + 1e-9
        else:
            cosines = np.linalg.svd(bases[a].T @ bases[b], compute_uv=False)
            mean = (cosines**2).sum() / min(bases[a].shape[1], bases[b].shape[1])
            angle = np.degrees(np.arccos(np.sqrt(min(1.0, mean))))
            assert row["angle"] == pytest.approx(angle, abs=0.05)
    assert len(found) == 3 + 3


def test_orthogonal_and_nested_classes():
    x = np.vstack(
        [
            np.eye(4)[[0, 1]].repeat(5, 0),
            np.eye(4)[[2, 3]].repeat(5, 0),
            np.eye(4)[[0]].repeat(5, 0),
        ]
    )
    y = np.array([0] * 10 + [1] * 10 + [2] * 5)
    masc = MinimumAngleSubspaceClassifier(variance=1.0).fit(x, y)
    found = geometry({"fc": masc}, ["fc"]).set_index(["class_a", "class_b"])["angle"]
    assert found[0, 1] == pytest.approx(90)
    assert found[0, 2] == pytest.approx(0, abs=0.05)


def test_pairs_only_of_the_layers_asked_for():
    x, y = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 4
    masc = MinimumAngleSubspaceClassifier(variance=0.7).fit(x, y)
    found = geometry({"a": masc, "b": masc}, ["b"])
    pairs = found[found["class_a"] != found["class_b"]]
    assert set(pairs["layer"]) == {"b"}
    assert found.groupby("layer").size().to_dict() == {"a": 4, "b": 10}

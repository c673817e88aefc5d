"""Discriminants that answer together: sums, layers, and what a folder holds of them."""

import numpy as np
import pytest
import torch
from torch import nn

from underscript.activations.hooks import Tap
from underscript.activations.trace import survey
from underscript.data.source import Source
from underscript.probes.discriminant import RidgeDiscriminant
from underscript.probes.ensemble import COMBINED, CombinedDiscriminant, Member, rows_for
from underscript.results.decoder import Decoder
from underscript.results.run_folder import _read_decoder, _write_decoder
from underscript.selection import Key


@pytest.fixture(scope="module")
def layers():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    return {
        name: torch.randn(120, width, generator=generator) + 2 * torch.eye(3, width)[y]
        for name, width in (("a", 5), ("b", 8))
    }, y.numpy()


@pytest.fixture(scope="module")
def members(layers):
    rows, y = layers
    return [
        Member("b", RidgeDiscriminant(ridge=1.0).fit(rows["b"].numpy(), y)),
        Member("a", RidgeDiscriminant(n_features=16).fit(rows["a"].numpy(), y)),
        Member("b", RidgeDiscriminant(ridge=0.1).fit(rows["b"].numpy(), y)),
    ]


def test_decision_values_are_the_sum_of_the_members(layers, members):
    rows, _ = layers
    together = CombinedDiscriminant(members)
    expected = sum(estimator.decide(rows[layer]) for layer, estimator in members)
    torch.testing.assert_close(together.decide(rows), expected)
    torch.testing.assert_close(together.closeness(rows), torch.softmax(expected, 1))
    assert torch.equal(together.nearest(rows), expected.argmax(1))
    chances, nearest = together.predictions(rows, torch.zeros(120, dtype=torch.int64))
    assert torch.equal(chances.argmax(1), nearest)
    assert together.layers == ("b", "a")
    assert together.n_features_in_ == 13  # a layer that two members read counts once
    assert together.ranks_.tolist() == [1, 1, 1]
    assert "on b" in repr(together)


def test_one_layer_is_read_as_a_tensor(layers, members):
    rows, _ = layers
    of_b = CombinedDiscriminant([members[0], members[2]])
    torch.testing.assert_close(of_b.decide(rows["b"]), of_b.decide(rows))
    assert rows_for("b", rows) is rows["b"]
    assert rows_for(COMBINED, rows) is rows


def test_what_is_kept_of_it_gives_the_same_again(layers, members):
    rows, _ = layers
    together = CombinedDiscriminant(members)
    again = CombinedDiscriminant.restored(together.get_params(), together.tensors())
    assert torch.equal(again.decide(rows), together.decide(rows))
    assert again.get_params() == together.get_params()
    assert again.to(torch.device("cpu")) is again


def test_what_does_not_belong_together_is_refused(layers, members):
    rows, y = layers
    other = Member("a", RidgeDiscriminant().fit(rows["a"].numpy(), y // 2))
    odd = CombinedDiscriminant([members[0], other])
    with pytest.raises(ValueError, match="same classes"):
        CombinedDiscriminant.restored(odd.get_params(), odd.tensors())
    with pytest.raises(ValueError, match="same classes"):
        CombinedDiscriminant.restored({"members": []}, {})
    with pytest.raises(KeyError):
        CombinedDiscriminant.restored(odd.get_params(), {})


def test_members_alone_are_less_right_than_together(layers, members):
    rows, y = layers
    right = [float((e.nearest(rows[layer]).numpy() == y).mean()) for layer, e in members]
    together = (CombinedDiscriminant(members).nearest(rows).numpy() == y).mean()
    assert together >= np.mean(right)


def test_a_decoder_of_several_layers_reads_them_in_one_pass_and_comes_back(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    model.eval()
    x, y = torch.randn(90, 6), np.arange(90) % 3
    with torch.no_grad():
        rows = {"1": model[:2](x), "3": model[:4](x)}
    taps = [
        place.tap for place in survey(model, Source((x, y), "train").first(3), "cpu").all_places
    ]
    assert all(isinstance(tap, Tap) for tap in taps)
    together = CombinedDiscriminant(
        [Member(name, RidgeDiscriminant(ridge=1.0).fit(r.numpy(), y)) for name, r in rows.items()]
    )
    decoder = Decoder.of(Key(COMBINED, "auto", None, "corrupted"), together, taps, model)
    assert decoder.layers == ("1", "3")
    expected = together.decide(rows)
    np.testing.assert_allclose(decoder.decision_function(x), expected, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(decoder.module(x), expected, atol=1e-5, rtol=1e-5)
    _write_decoder(decoder, tmp_path)
    read = _read_decoder(tmp_path, model)
    assert (read.layer, read.layers, read.taps) == (COMBINED, decoder.layers, decoder.taps)
    np.testing.assert_array_equal(read.predict_proba(x), decoder.predict_proba(x))

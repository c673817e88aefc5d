"""A sample's log-odds are looked up by its input, else by its index."""

import numpy as np
import torch

from underscript.data.batches import Batch
from underscript.data.fingerprints import fingerprints_of
from underscript.selection.log_odds_lookup import LogOdds, OutOfFoldLogOdds, SampleLookup

N = 40
INPUTS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
VALUES = torch.arange(2.0 * N).view(N, 2)


def batch(places, inputs=INPUTS, index=None):
    args = (inputs[places],) if isinstance(inputs, torch.Tensor) else (["text"] * len(places),)
    return Batch(args, {}, None, index, len(places))


def never():
    raise AssertionError("everything is known")


def out_of_fold(index=True):
    fingerprints = fingerprints_of(batch(np.arange(N)))
    odds = LogOdds(VALUES, VALUES[:, 0].double())
    return OutOfFoldLogOdds(odds, SampleLookup(fingerprints, np.arange(N) + 100 if index else None))


def test_in_any_order_it_is_the_samples_own():
    order = np.random.default_rng(0).permutation(N)
    for index in (None, order + 100, order[::-1] + 100):  # the input counts for more
        found = out_of_fold().of(batch(order, index=index), never)
        assert torch.equal(found.of_classes, VALUES[order])
        assert torch.equal(found.by_margins, VALUES[order, 0].double())


def test_of_inputs_that_are_drawn_anew_the_index_says_which_it_is():
    order = np.random.default_rng(0).permutation(N)
    for inputs in (INPUTS + 1, "texts"):
        seen = batch(order, inputs, order + 100)
        assert torch.equal(out_of_fold().of(seen, never).of_classes, VALUES[order])


def test_all_inputs_tell_samples_apart_and_no_padding():
    same = torch.ones(N, 3)
    two = Batch((same, INPUTS), {}, None, None, N)
    assert len(set(fingerprints_of(two).tolist())) == N
    words = torch.randint(1, 9, (N, 5), generator=torch.Generator().manual_seed(0))
    kept = torch.arange(5) < 1 + torch.arange(N)[:, None] % 5
    fingerprints = []
    for before, after in ((0, 0), (0, 4), (2, 1)):
        pad = torch.nn.functional.pad
        ids = pad(words * kept, (before, after), value=7)
        mask = pad(kept.long(), (before, after))
        inputs = {"attention_mask": mask, "input_ids": ids}
        fingerprints.append(fingerprints_of(Batch((), inputs, None, None, N)).tolist())
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]
    distinct = {tuple(row[row > 0].tolist()) for row in words * kept}
    assert len(set(fingerprints[0])) == len(distinct)


def test_what_is_known_by_neither_is_asked_for():
    places = np.array([0, 5, 7])
    inputs = INPUTS.clone()
    inputs[5] += 1
    asked = -torch.ones(3, 2)
    for known in (out_of_fold(), out_of_fold(index=False)):
        found = known.of(batch(places, inputs), lambda: asked)
        assert found.of_classes.tolist() == [VALUES[0].tolist(), [-1, -1], VALUES[7].tolist()]
        assert found.by_margins.tolist() == [VALUES[0, 0], 0, VALUES[7, 0]]
    found = out_of_fold(index=False).of(batch(places, "texts"), lambda: asked)
    assert torch.equal(found.of_classes, asked)

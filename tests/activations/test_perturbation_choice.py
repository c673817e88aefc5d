"""Which perturbation is chosen: by what the inputs are, and by how the network answers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from perturbed import Adds, ByRows, Wrapped, batch_of, blobs, chosen, images, padded, rows, texts
from underscript.activations.perturbation.choosing import _against_shuffled
from underscript.errors import DataError


class Remembers(nn.Module):
    """Answers by the exact input alone: a checksum that any change makes another."""

    def forward(self, x: Tensor) -> Tensor:
        number = (x.double().flatten(1) * torch.arange(1, x[0].numel() + 1)).sum(1) * 1e4
        return nn.functional.one_hot(number.long() % 5, 5).float()


def test_flips_are_taken_where_the_network_answers_them_alike():
    found, messages = chosen(ByRows(3), batch_of(blobs(2)))
    assert (found.name, found.fits, messages) == ("shifts and flips", True, [])
    found, messages = chosen(ByRows(2), batch_of(blobs(3)))
    assert (found.name, found.fits, messages) == ("shifts", True, [])


def test_bytes_are_images_too():
    x = (blobs(2) * 100).to(torch.uint8)
    found, _ = chosen(ByRows(3), batch_of(x))
    (moved,) = found(batch_of(x), 0).args
    assert found.name == "shifts and flips"
    assert moved.dtype == torch.uint8
    assert not torch.equal(moved, x)


def test_a_perturbation_answered_by_chance_is_none_and_says_so():
    found, (message,) = chosen(Remembers(), batch_of(images(300, 1)))
    assert found is None
    assert "of 300 inputs with shifts as it does without" in message
    assert "by chance" in message


def test_shuffled_answers_agree_as_often_and_as_unevenly_as_is_said():
    rng = np.random.default_rng(0)
    plain = torch.from_numpy(rng.integers(0, 3, 50))
    first = torch.from_numpy(rng.integers(0, 3, 50))
    views = [first, first, torch.from_numpy(rng.integers(0, 3, 50))]
    agreement, chance, error = _against_shuffled(plain, views)
    assert agreement == pytest.approx(np.mean([(plain == v).double().mean() for v in views]))
    shuffled = [plain[torch.from_numpy(rng.permutation(50))] for _ in range(4000)]
    found = [np.mean([float((order == v).double().mean()) for v in views]) for order in shuffled]
    assert chance == pytest.approx(np.mean(found), abs=0.003)
    assert error == pytest.approx(np.std(found), rel=0.05)


def test_none_and_what_is_unknown():
    assert chosen(ByRows(), batch_of(blobs(2)), "none") == (None, [])
    with pytest.raises(
        DataError, match="perturb: expected auto, overlays, none or a function; found 'wild'"
    ):
        chosen(ByRows(), batch_of(blobs(2)), "wild")


def test_texts_without_a_mask_are_not_perturbed_and_it_says_so():
    x, _ = models.data_for("transformer", 100)
    found, (message,) = chosen(models.build("transformer"), batch_of(x))
    assert found is None
    assert "not perturbed: the inputs are no images or numbers" in message
    assert "attention_mask" in message


def test_texts_too_short_to_lose_a_word_are_not_perturbed():
    batch = padded([[1, 2], [3], [5, 4]] * 20)

    def forward(input_ids, attention_mask):
        return nn.functional.one_hot(input_ids[:, 0] % 4, 4).float()

    found, (message,) = chosen(Wrapped(forward), batch)
    assert found is None
    assert "of 60 inputs words dropped changed none" in message


def test_tables_are_only_judged_with():
    found, messages = chosen(Adds(), batch_of(rows()))
    assert (found.name, found.fits, messages) == ("noise", False, [])


def test_inputs_of_several_kinds_are_perturbed_each_in_its_way():
    def forward(picture, age, input_ids, attention_mask):
        del input_ids, attention_mask, age
        return ByRows()(picture)

    batch = padded(texts(200))
    batch = batch_of(picture=blobs(2), age=rows(200), **batch.kwargs)
    found, _ = chosen(Wrapped(forward), batch)
    assert (found.name, found.fits) == ("shifts and flips, words dropped, noise", False)
    after = found(batch, 0).kwargs
    changed = {name for name in after if not torch.equal(after[name], batch.kwargs[name])}
    assert changed == {"picture", "age", "attention_mask"}
    other = batch_of(**dict(reversed(batch.kwargs.items())))
    again = found(other, 0).kwargs
    assert list(again) == list(reversed(after))
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_two_axes_are_no_image_where_a_network_reads_sequences():
    def forward(x):
        return ByRows()(x[:, None])

    x = batch_of(blobs(2)[:, 0])
    assert chosen(Wrapped(forward), x)[0].name.startswith("shifts")
    for part in (nn.Conv1d(16, 2, 3), nn.LSTM(2, 2), nn.MultiheadAttention(2, 1)):
        assert chosen(Wrapped(forward, part), x)[0].name == "noise"
    assert chosen(Wrapped(forward, nn.Conv2d(1, 1, 1), nn.Conv1d(1, 1, 1)), x)[0].name != "noise"


def test_a_network_with_one_answer_for_all_is_no_reason_against():
    def forward(x):
        return torch.tensor([[0.0, 1.0]]).expand(x.shape[0], -1)

    found, messages = chosen(Wrapped(forward), batch_of(images()))
    assert (found.name, messages) == ("shifts and flips", [])

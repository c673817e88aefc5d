"""Rows are kept whole, in memory or in a file, and a fold is a matter of the input alone."""

import errno
import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_fits import fingerprints_of, kept, rows

from underscript.errors import OutputError
from underscript.selection.kept_rows import FOLDS, KeptRows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def everything(kept_rows, layer="fc", size=100):
    """Return by fold what is kept: views (n, width), in blocks of a size put together."""
    by_fold = []
    for fold in range(FOLDS):
        blocks = list(kept_rows.blocks(layer, fold, range(kept_rows.views), size))
        assert all(len(part) <= size for block in blocks for part in block)
        by_fold.append([torch.cat(parts) for parts in zip(*blocks, strict=True)])
    return by_fold


@pytest.mark.parametrize("batch", [1, 64, 1000])
@pytest.mark.parametrize("memory", [1, 30_000, 1 << 30])
def test_rows_come_back_as_they_were_with_their_labels(folder, memory, batch):
    some = rows(n=300, width=7, moved=2)
    kept_rows = kept(some, memory, batch)
    assert kept_rows.n == 300
    assert kept_rows.widths == {"fc": 7}
    seen = []
    for fold, views in enumerate(everything(kept_rows)):
        part = kept_rows.part(fold)
        places = part.places.numpy()
        seen += places.tolist()
        assert (some.folds[places] == fold).all()
        np.testing.assert_array_equal(part.labels, some.given[places])
        np.testing.assert_array_equal(part.fingerprints, some.fingerprints[places])
        for view, expected in zip(views, some.views, strict=True):
            np.testing.assert_array_equal(view, expected[places])
    assert sorted(seen) == list(range(300))


def test_beyond_the_budget_rows_are_in_a_file_that_leaves_nothing(folder):
    some = rows(n=300, width=7, moved=2)
    in_memory, kept_rows = kept(some, memory=1 << 30), kept(some, memory=10_000)
    columns = list(kept_rows._columns.values())
    assert all(column.file is not None and not column.chunks for column in columns)
    # One file for all of them: a process may open but a thousand or so.
    (file,) = {column.file._file for column in columns}
    assert os.fstat(file.fileno()).st_size == 4 * 7 * 3 * 300
    # The file has no name: nothing stays behind, even of a process that is killed.
    assert list(folder.iterdir()) == []
    for one, other in zip(everything(in_memory), everything(kept_rows), strict=True):
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first, second)
    # Read twice, and in part.
    (block, *_) = kept_rows.blocks("fc", 0, [2], 10)
    assert torch.equal(block[0], everything(kept_rows)[0][2][:10])
    del kept_rows, block, columns
    gc.collect()
    assert file.closed


def test_equal_inputs_fall_in_one_fold_whatever_their_order():
    fingerprints = np.repeat(np.arange(1000, dtype=np.uint64), 3)
    order = np.random.default_rng(0).permutation(3000)
    prints_by_fold = []
    for arriving in (fingerprints, fingerprints[order]):
        some = KeptRows(1, 1 << 30)
        for part in np.array_split(arriving, 7):
            labels = torch.zeros(len(part), dtype=torch.int64)
            some.add([{"fc": torch.zeros(len(part), 2)}], labels, part)
        prints_by_fold.append(
            [np.unique(some.part(fold).fingerprints).tolist() for fold in range(FOLDS)]
        )
    assert prints_by_fold[0] == prints_by_fold[1]
    assert sum(map(len, prints_by_fold[0])) == 1000
    assert all(280 < len(fold) < 390 for fold in prints_by_fold[0])


def test_some_rows_are_the_same_ones_whatever_the_order():
    some = rows(n=500, width=6, moved=1)
    fingerprints, expected = kept(some).some("fc", 100)
    assert fingerprints.shape == (100,)
    assert (np.diff(fingerprints.astype(object)) > 0).all()
    inputs = {tuple(row) for row in some.views[0].tolist()}
    assert {tuple(row) for row in expected.tolist()} < inputs
    for seed in range(3):
        other = some.taken(np.random.default_rng(seed).permutation(500))
        again, chosen = kept(other, batch=33, memory=1000).some("fc", 100)
        np.testing.assert_array_equal(again, fingerprints)
        assert torch.equal(chosen, expected)


@pytest.mark.parametrize("size", [499, 500, 501, 10_000])
def test_some_of_few_rows_are_all(size):
    fingerprints, chosen = kept(rows(n=500, width=6)).some("fc", size)
    assert len(fingerprints) == len(chosen) == min(size, 500)


def test_some_of_many_equal_inputs_are_as_many_as_asked():
    some = rows(n=90, width=6)
    some.fingerprints[:] = some.fingerprints[0]
    fingerprints, chosen = kept(some).some("fc", 20)
    assert len(fingerprints) == len(chosen) == 20


def test_nothing_was_read():
    kept_rows = KeptRows(1, 100)
    fingerprints, chosen = kept_rows.some("fc", 5)
    assert len(fingerprints) == len(chosen) == 0
    assert [len(kept_rows.part(fold).labels) for fold in range(FOLDS)] == [0] * FOLDS
    assert list(kept_rows.blocks("fc", 0, [0])) == []


def test_a_fold_may_be_empty(folder):
    some = rows(n=60)
    some.fingerprints = fingerprints_of(np.zeros(60, dtype=int))
    for memory in (1 << 30, 100):
        kept_rows = kept(some, memory)
        assert [len(kept_rows.part(fold).labels) for fold in range(FOLDS)] == [60, 0, 0]
        assert sum(len(parts[0]) for parts in kept_rows.blocks("fc", 1, [0, 1])) == 0
        assert sum(len(parts[0]) for parts in kept_rows.blocks("fc", 0, [0, 1])) == 60


def no_file(**how):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_file(**how):
    """Return a temporary file on a disk that is full."""
    file = MAKE(**how)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, file.fileno())
    os.close(full)
    return file


MAKE = tempfile.TemporaryFile
FULL = [
    no_file,
    pytest.param(
        full_file, marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    ),
]


@pytest.mark.parametrize("make", FULL)
# The system takes a few rows before it notices.
@pytest.mark.parametrize("n", [30, 3000])
def test_no_room_on_disk_is_one_clear_line(folder, monkeypatch, make, n):
    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    with pytest.raises(OutputError, match=r"cannot keep rows in .*: No space left") as caught:
        list(kept(rows(n=n), memory=1000).blocks("fc", 0, [0]))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "TMPDIR" in str(caught.value)
    del caught
    gc.collect()
    assert list(folder.iterdir()) == []

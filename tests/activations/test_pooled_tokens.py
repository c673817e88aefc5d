"""Layers of tokens: pooled as a plain loop over the words does it, whatever the padding."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import models
import underscript as us
from captured import captured
from underscript.activations.pooling import TOKENS, places_for, pooled, words
from underscript.cli.command_line import main
from underscript.errors import DataError, LayerError

WAYS = list(TOKENS)
PAD = 0


class Reader(nn.Module):
    """Tokens → two blocks that attend to words only → their mean → classes; no positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(8, models.CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=attention_mask == 0)
        kept = attention_mask[:, :, None].to(x.dtype)
        return {"logits": self.head((x * kept).sum(1) / kept.sum(1))}


def reader() -> Reader:
    torch.manual_seed(3)
    return Reader().eval()


def texts(n: int = 60, seed: int = 0) -> list[tuple[list[int], int]]:
    """Return texts of two to six words, which tell the class, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % models.CLASSES)
    return [((rng.integers(1, 6, rng.integers(2, 7)) + 4 * k).tolist(), int(k)) for k in labels]


def padded(batch: list[tuple[list[int], int]], length: int = 0, side: str = "right") -> dict:
    """Collate to one length: that of the longest text, or more."""
    length = max(length, *(len(text) for text, _ in batch))
    ids, mask = [], []
    for text, _ in batch:
        rest = length - len(text)
        filled, ones = [PAD] * rest, [0] * rest
        ids.append(text + filled if side == "right" else filled + text)
        mask.append([1] * len(text) + ones if side == "right" else ones + [1] * len(text))
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([label for _, label in batch]),
    }


def loader(data: list, size: int = 16, **how) -> DataLoader:
    return DataLoader(data, batch_size=size, collate_fn=lambda batch: padded(batch, **how))


def decode(data, **options) -> us.Decoding:
    return us.decode(reader(), data, progress=False, **({"controls": False} | options))


# The arithmetic -----------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), tokens=st.integers(1, 7))
@pytest.mark.parametrize("pool", WAYS)
@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
def test_pooling_is_a_loop_over_the_tokens_that_the_mask_keeps(pool, junk, seed, n, tokens):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, tokens, 3))
    mask = rng.random((n, tokens)) < 0.6
    mask[np.arange(n), rng.integers(0, tokens, n)] = True
    values[~mask] = junk
    expected = []
    for row, kept in zip(values, mask, strict=True):
        words = [token for token, keep in zip(row, kept, strict=True) if keep]
        mean = np.mean(words, axis=0)
        expected.append({"first": words[0], "last": words[-1], "mean": mean}[pool])
    found = pooled(torch.from_numpy(values), pool, torch.from_numpy(mask), "layer")
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-12)


@pytest.mark.parametrize(("pool", "at"), [("first", 0), ("last", -1)])
def test_without_a_mask_all_tokens_count(pool, at):
    values = torch.randn(4, 5, 3)
    assert torch.equal(pooled(values, pool, None, "layer"), values[:, at])
    torch.testing.assert_close(pooled(values, "mean", None, "layer"), values.sum(1) / 5)
    torch.testing.assert_close(
        pooled(torch.ones(2, 3, 4, 5), "mean", None, "layer"), torch.ones(2, 3)
    )


@pytest.mark.parametrize("pool", WAYS)
def test_pooling_can_be_exported(pool):
    class Pool(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return pooled(x, pool, mask, "layer")

    x, mask = torch.randn(3, 5, 4), torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [0, 0, 1, 1, 1]]) != 0
    sizes = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens")}
    program = torch.export.export(Pool(), (x, mask), dynamic_shapes={"x": sizes, "mask": sizes})
    x, mask = torch.randn(7, 9, 4), torch.rand(7, 9) < 0.5
    mask[:, 4] = True
    torch.testing.assert_close(program.module()(x, mask), Pool()(x, mask))


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 30), masked=st.booleans())
@pytest.mark.parametrize("vocabulary", [8, 50_000])
def test_words_are_counted(vocabulary, seed, tokens, masked):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, vocabulary, (3, tokens))
    mask = rng.random((3, tokens)) < 0.7
    mask[:, rng.integers(tokens)] = True
    width = places_for(vocabulary)
    assert width == (8 if vocabulary == 8 else 1024)
    expected = np.zeros((3, width))
    for row, text, kept in zip(expected, numbers, mask, strict=True):
        for number in text[kept] if masked else text:
            row[number % width] += 1 if number // width % 2 == 0 else -1
        row /= kept.sum() if masked else tokens
    found = words(torch.from_numpy(numbers), torch.from_numpy(mask) if masked else None, width)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


# Through the model --------------------------------------------------------------------------


def rows_of(data: dict, layers: object = None) -> dict[str, Tensor]:
    samples = [{key: value[i] for key, value in data.items()} for i in range(len(data["labels"]))]
    return captured(reader(), samples, layers)


@pytest.mark.parametrize("pool", WAYS)
def test_rows_are_those_of_each_text_alone_without_padding(pool):
    data, layers = texts(12), [f"blocks.*@{pool}", f"embed@{pool}"]
    names = [f"{name}@{pool}" for name in ("embed", "blocks.0", "blocks.1")]
    alone = [rows_of(padded([text]), layers) for text in data]
    for side in ("right", "left"):
        for length in (0, 11):
            together = rows_of(padded(data, length, side), layers)
            assert list(together) == names
            for name, rows in together.items():
                expected = torch.cat([each[name] for each in alone])
                torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


def test_a_mask_makes_the_mean_the_default_and_the_head_stays_as_it_is():
    assert list(rows_of(padded(texts(5)))) == [
        "input",
        "blocks.0@mean",
        "blocks.1@mean",
        "head:input",
    ]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("blocks.0", ["blocks.0@mean"]),
        ("blocks.0@last", ["blocks.0@last"]),
        ("blocks.1@last,blocks.*@first", ["blocks.0@first", "blocks.1@first", "blocks.1@last"]),
        ("blocks.0@flatten", ["blocks.0"]),
        ("**@first", None),
        (lambda name, module: name == "blocks.1", ["blocks.1@mean"]),
    ],
)
def test_a_name_may_say_how_its_tokens_are_read(layers, expected):
    found = list(rows_of(padded(texts(5)), layers))
    if expected is None:  # everything with tokens, and nothing else
        assert "blocks.0.norm1@first" in found
        assert {name.rpartition("@")[2] for name in found} == {"first"}
        assert not any("head" in name for name in found)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("layers", "pool", "says"),
    [
        (
            "blocks.0@max",
            None,
            "expected one of flatten, first, mean.* a grid such as 2x2 after",
        ),
        ("head:input@mean", None, r"6 tokens as the mask has.*'head:input' has shape \(8,\)"),
        ("block.0@mean", None, r"no layer matches 'block.0'.*blocks.0"),
        (None, "max", "pool: expected some of flatten, first, mean, last or a grid.*; found 'max'"),
        (None, [], "pool: expected some of"),
        (None, "0x2", "pool: expected some of.*found '0x2'"),
        (None, "auto,mean", "pool: expected some of.*found 'auto,mean'"),
        (
            "blocks.0@2x2",
            None,
            "expected feature maps, at least 2 high and 2 wide; 'blocks.0'",
        ),
    ],
)
def test_what_cannot_be_pooled_is_one_clear_line(layers, pool, says):
    with pytest.raises((LayerError, DataError), match=says) as caught:
        decode(loader(texts(), length=6), layers=layers, pool=pool)
    assert "\n" not in str(caught.value)


def test_a_pool_without_any_layer_of_tokens_is_an_error():
    with pytest.raises(LayerError, match="none of the 3 layers is one"):
        us.decode(models.build("mlp"), models.data_for("mlp"), pool="mean")


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.tensor([[1, 1]] * 2 + [[0, 0]]), "sample at index 2 is nothing but padding"),
        (torch.tensor([[0.0, -1e9]] * 3), "expected 1 for tokens and 0 for padding"),
        (torch.ones(3, 1, 1, 2), r"attention_mask: expected shape \(3, tokens\).*\(3, 1, 1, 2\)"),
    ],
)
def test_a_mask_that_is_none_is_one_clear_line(mask, says):
    data = [
        {"input_ids": torch.tensor([1, 2]), "attention_mask": row, "labels": k}
        for k, row in enumerate(mask)
    ]
    with pytest.raises(DataError, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


# Through the whole of decode ----------------------------------------------------------------


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_padding():
    data = texts(120)
    found = [
        decode(loader(data, **how), pool=("first", "mean", "last"))
        for how in ({}, {"size": 50}, {"length": 13}, {"length": 9, "side": "left"})
    ]
    for other in found[1:]:
        assert other.table["layer"].tolist() == found[0].table["layer"].tolist()
        assert other.table["accuracy"].to_numpy() == pytest.approx(
            found[0].table["accuracy"].to_numpy(), abs=0.02
        )
        assert other.label_issues()["label_quality"].to_numpy() == pytest.approx(
            found[0].label_issues()["label_quality"].to_numpy(), abs=0.02
        )


def test_results_and_saved_decoder_say_how_tokens_are_read(tmp_path):
    data = texts(80)
    found = decode(loader(data), layers=["blocks.1@last"], pool="first", auto=False)
    assert found.summary["settings"]["pool"] == ["first"]
    assert found.summary["settings"]["layers"] == ["blocks.1@last"]
    found.save(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "decoder" / "config.json").read_text())
    assert [(tap["name"], tap["pool"]) for tap in config["taps"]] == [("blocks.1@last", "last")]
    again = us.load(tmp_path / "run", model=reader())
    new = loader(texts(30, seed=1), length=12, side="left")
    np.testing.assert_array_equal(
        again.best.decision_function(new), found.best.decision_function(new)
    )
    # A text alone, without any padding, as well.
    np.testing.assert_allclose(
        again.best.decision_function(loader(texts(30, seed=1), size=1)),
        found.best.decision_function(new),
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.filterwarnings("ignore:1 of the 60 inputs")
def test_the_input_of_a_text_classifier_is_its_words(tmp_path):
    data = texts(120)
    rows = rows_of(padded(data, 9, "left"), "input")["input"]
    assert rows.shape == (120, 32)  # an exact count for 20 words
    for row, (text, _) in zip(rows, data, strict=True):
        for number in range(20):
            assert row[number] == pytest.approx(text.count(number) / len(text))
    # The control that the report names, which needs no network.
    found = decode(loader(data), test=loader(texts(60, seed=1)), controls=True)
    control = found.table[(found.table["layer"] == "input") & (found.table["split"] == "test")]
    assert control["accuracy"].max() > 0.9
    alone = decode(loader(data), layers="input")
    alone.save(tmp_path / "run")
    new = texts(30, seed=1)
    assert np.mean(us.load(tmp_path / "run").best.predict(loader(new)) == [k for _, k in new]) > 0.9


def test_whole_numbers_that_no_embedding_takes_are_no_words():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float())

    x = torch.arange(3 * models.WIDTH).reshape(3, -1)
    first = us.list_layers(Counts(), x).iloc[0]
    assert (first["layer"], first["shape"]) == ("input", (models.WIDTH,))
    assert torch.equal(captured(Counts(), x, "input")["input"], x.float())


def test_embedded_tokens_are_a_control_without_their_padding():
    """Texts that come as vectors of words: the input is pooled too, and keeps its name."""

    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(4, 8), nn.Linear(8, models.CLASSES)

        def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
            kept = attention_mask[:, :, None]
            return self.head((self.fc(inputs_embeds).relu() * kept).sum(1) / kept.sum(1))

    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    x = torch.randn(3, 3, 4)
    x[mask == 0] = 1e6
    data = [{"inputs_embeds": v, "attention_mask": m} for v, m in zip(x, mask, strict=True)]
    rows = captured(Vectors(), data)
    assert list(rows) == ["input", "head:input"]
    expected = torch.stack([x[0].mean(0), x[1, 0], x[2, :2].mean(0)])
    torch.testing.assert_close(rows["input"], expected)


MINE = """
import torch
import models

build = lambda: models.build("transformer")
x, y = models.data_for("transformer")
train = (x, y)
"""


# There is no mask of the words, and no hold-out: both are told.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
def test_pool_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    command = ["layers", "mine.py:build", "--example", "mine.py:train", "--json"]
    assert main([*command, "--pool", "first,mean"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in shown if row["default"]] == [
        "input",
        "encoder.layers.0@first",
        "encoder.layers.0@mean",
        "encoder@first",
        "encoder@mean",
        "head:input",
    ]
    command = [
        "decode",
        "--model",
        "mine.py:build",
        "--train",
        "mine.py:train",
        "--no-controls",
        "--out",
        "run",
        "--json",
    ]
    assert main([*command, "--pool", "mean", "--layers", "encoder,encoder.layers.0@last"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["pool"] == ["mean"]
    assert found["settings"]["layers"] == ["encoder.layers.0@last", "encoder@mean"]
    assert main([*command, "--pool", "most"]) == 2
    assert "pool: expected some of flatten, first, mean, last or a grid" in capsys.readouterr().err


@pytest.mark.parametrize("pool", WAYS)
def test_the_module_finds_the_mask_by_name_or_place(pool, tmp_path):
    data = texts(80)
    found = decode(loader(data), layers="blocks.*", pool=pool)
    batch = padded(texts(9, seed=1), length=8)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = found.best.decision_function(loader(texts(9, seed=1)))
    with torch.no_grad():
        for values in (
            found.best.module(ids, mask),
            found.best.module(input_ids=ids, attention_mask=mask),
            found.best.module(ids, attention_mask=mask),
        ):
            np.testing.assert_allclose(values.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_exported_decoder_leaves_padding_out(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra underscript[onnx]")
    found = decode(loader(texts(80), length=8), layers="blocks.*", pool=("first", "mean", "last"))
    found.best.export(tmp_path / "d.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    for side in ("left", "right"):
        batch = padded(texts(9, seed=1), length=8, side=side)
        inputs = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
        (values,) = session.run(None, inputs)
        expected = found.best.decision_function(loader(texts(9, seed=1)))
        np.testing.assert_allclose(values, expected, rtol=1e-2, atol=1e-3)

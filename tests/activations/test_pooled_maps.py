"""Layers of feature maps: pooled to grids of means, which are saved and exported with a decoder."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import models
import underscript as us
from captured import captured
from underscript.activations.hooks import Tap
from underscript.activations.pooling import pooled, usual_grid
from underscript.errors import LayerError, OutputError


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    data=st.data(),
)
def test_a_grid_of_means_is_an_adaptive_pool(seed, height, width, data):
    rows = data.draw(st.integers(1, height))
    columns = data.draw(st.integers(1, width))
    maps = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, height, width)))
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, (rows, columns)).flatten(1)
    found = pooled(maps, f"{rows}x{columns}", None, "layer")
    assert torch.equal(found, expected)
    with mock.patch("torch.compiler.is_compiling", return_value=True):  # as it is exported
        found = pooled(maps, f"{rows}x{columns}", None, "layer")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")  # torch 2.4 to 2.6, of any export
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 1)])
def test_a_grid_can_be_exported_for_any_size(size):
    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pooled(x, f"2x{min(2, size[1])}", None, "layer")

    x = torch.randn(3, 4, *size)
    program = torch.export.export(
        Pool(), (x,), dynamic_shapes={"x": {0: torch.export.Dim("n")}}, strict=False
    )
    torch.testing.assert_close(program.module()(torch.cat([x, x])), Pool()(torch.cat([x, x])))


@pytest.mark.parametrize(
    ("shape", "hidden", "finest"),
    [
        ((64, 32, 32), "4x4", "5x5"),
        ((128, 32, 32), "4x4", "4x4"),
        ((129, 32, 32), "2x2", "3x3"),
        ((128, 4, 4), None, None),
        ((129, 4, 4), "2x2", "3x3"),
        ((512, 4, 4), "2x2", "2x2"),
        ((513, 4, 4), "1x1", "1x1"),
        ((4096, 7, 7), "1x1", "1x1"),
        ((512, 2, 2), None, None),
        ((1024, 2, 2), "1x1", "1x1"),
        ((512, 1, 1), None, None),
        ((3, 32, 32), "4x4", "26x26"),
        ((1, 28, 28), "4x4", None),
        # Wider or higher than the other way.
        ((3, 224, 16), "4x4", "26x16"),
        ((64, 3, 100), "3x4", "3x5"),
        ((64, 100, 2), "4x2", "5x2"),
        ((256, 3, 100), "2x2", "2x2"),
        ((64, 3, 3), None, None),
        ((64, 2, 4), None, None),
        ((256, 2, 3), "2x2", None),
        # Along one axis, whichever it is.
        ((64, 1, 100), "1x16", "1x32"),
        ((64, 100, 1), "16x1", "32x1"),
        ((128, 1, 17), "1x16", "1x16"),
        ((129, 1, 17), "1x4", "1x15"),
        ((512, 1, 100), "1x4", "1x4"),
        ((600, 1, 100), "1x1", "1x3"),
        ((64, 1, 16), None, None),
        ((64, 1, 3), None, None),
        ((3, 5, 1), None, None),
    ],
)
def test_maps_are_read_as_grids_of_at_most_2048_numbers(shape, hidden, finest):
    assert usual_grid(shape) == hidden
    assert usual_grid(shape, finest=True) == finest


class Picture(nn.Module):
    """Convolutions on images (n, 3, 32, 32), as a residual network ends: one row a map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), nn.Conv2d(6, 600, 3), nn.ReLU()
        )
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(600, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


def pictures(n: int = 40) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((n, 3, 32, 32), dtype=np.float32))


def test_an_image_is_read_as_the_finest_grid_under_its_plain_name():
    x = pictures()
    rows = captured(Picture(), x)
    # What is read as body@1x1 goes into the head.
    assert list(rows) == ["input", "body.1@4x4", "head:input"]
    assert rows["input"].shape == (40, 3 * 26 * 26)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, 26).flatten(1)
    assert torch.equal(rows["input"], expected)
    for pool in ("mean", "2x2"):
        assert torch.equal(captured(Picture(), x, None, pool)["input"], expected)
    rows = captured(Picture(), x, ["input@flatten", "input@2x2", "body"])
    assert list(rows) == ["input", "input@2x2", "body@1x1"]
    assert torch.equal(rows["input"], x.flatten(1))
    rows = captured(Picture(), x, None, "flatten")
    assert [(name, each.shape[1]) for name, each in rows.items()] == [
        ("input", 3072),
        ("body.1", 6 * 64),
        ("body", 600 * 36),
        ("head:input", 600),
    ]


def test_a_grid_finer_than_a_map_is_not_taken():
    rows = captured(Picture(), pictures(), "body,body.1,body.1@7x1", "8x8,7x7")
    assert list(rows) == ["body.1@7x1", "body.1@7x7", "body.1@8x8", "body"]
    with pytest.raises(LayerError, match=r"'body@7x7'.* maps, at least 7 high and 7 wide"):
        captured(Picture(), pictures(), "body@7x7")


class Signal(nn.Module):
    """1-D convolutions on signals (n, 2, 40)."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU())
        self.extra, self.head = extra, nn.Linear(5 * 38, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def test_channels_and_length_are_maps_where_they_can_be_told_from_tokens():
    x = torch.randn(20, 2, 40)
    rows = captured(Signal(), x)
    assert [(name, each.shape[1]) for name, each in rows.items()] == [
        ("input", 80),
        ("body@1x16", 80),
    ]
    assert captured(Signal(), torch.randn(6, 2, 40), "input@1x8")["input@1x8"].shape == (6, 16)
    body = captured(model := Signal(), x, ["body", "body@flatten"])
    expected = torch.nn.functional.adaptive_avg_pool1d(body["body"].reshape(20, 5, 38), 16)
    torch.testing.assert_close(captured(model, x)["body@1x16"], expected.flatten(1))
    for tokens in (nn.Embedding(3, 4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4), nn.LayerNorm(4)):
        assert list(captured(Signal(tokens), x)) == ["input", "body"]


def test_maps_whose_channels_come_last_stay_as_they_are():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Sequential(nn.LayerNorm(3), nn.ReLU())
            self.head = nn.Linear(3 * 64, models.CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x.movedim(1, 3)).flatten(1))

    assert list(captured(Last(), torch.randn(9, 3, 8, 8))) == ["input", "norm"]


@pytest.mark.slow
def test_a_decoder_of_grids_is_saved_restored_and_exported(tmp_path):
    x, y = pictures(80), torch.arange(80) % models.CLASSES
    torch.manual_seed(0)
    model = Picture().eval()
    found = us.decode(
        model, (x, y), layers=["input", "body.1", "body"], controls=False, progress=False
    )
    assert found.summary["settings"]["pool"] == ["auto"]
    assert found.summary["settings"]["layers"] == ["input", "body.1@4x4", "body@1x1"]
    found.save(tmp_path / "run")
    path = tmp_path / "run" / "decoder" / "config.json"
    config = json.loads(path.read_text())
    pools = {tap["name"]: tap["pool"] for tap in config["taps"]}
    known = {"input": "26x26", "body.1@4x4": "4x4", "body@1x1": "1x1"}
    assert pools.items() <= known.items()
    again = us.load(tmp_path / "run", model=model)
    expected = found.best.decision_function(x)
    np.testing.assert_array_equal(again.best.decision_function(x), expected)
    with torch.no_grad():
        np.testing.assert_allclose(found.best.module(x), expected, rtol=1e-3, atol=1e-3)
    config["taps"][0]["pool"] = "2x"
    path.write_text(json.dumps(config))
    with pytest.raises(OutputError, match="pool"):
        us.load(tmp_path / "run", model=model)


@pytest.mark.parametrize(
    "pool", ["3x2", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("2x2", "1x1"))]
)
def test_an_exported_decoder_pools_sizes_that_do_not_divide(pool, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra underscript[onnx]")
    x, y = pictures(60)[:, :, :29, :31], torch.arange(60) % models.CLASSES
    torch.manual_seed(0)
    layers = [f"body.1@{pool}", "input"]
    found = us.decode(Picture().eval(), (x, y), layers=layers, controls=False, progress=False)
    found.best.export(tmp_path / "d.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {"x": x[:7].numpy()})
    np.testing.assert_allclose(values, found.best.decision_function(x[:7]), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("pool", ["2x", "x2", "2x2 ", "02x2", "2X2", "-1x2", "2x2x2", "", 4, None])
def test_a_saved_pool_is_checked(pool):
    with pytest.raises(ValueError, match="pool: expected one of flatten, first, mean, last or"):
        Tap("a", "a", "output", pool=pool)
    assert Tap("a", "a", "output", pool="12x3").pool == "12x3"


def test_feature_maps_have_a_mean():
    model, (x, _) = models.build("residual"), models.data_for("residual")
    rows = captured(model, x, ["layer1@flatten", "layer1@mean"])
    assert list(rows) == ["layer1", "layer1@mean"]
    maps = rows["layer1"].reshape(-1, 3, 36)
    torch.testing.assert_close(rows["layer1@mean"], maps.mean(2))

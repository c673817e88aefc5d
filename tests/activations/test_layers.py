"""Which layers a network has, what they are called, and that a tap reads what the layer gave."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
import underscript as us
from captured import captured
from underscript.activations.hooks import capture
from underscript.activations.trace import survey
from underscript.data.source import Source
from underscript.errors import DataError, LayerError, ModelError

DEFAULTS = {
    "mlp": ["input", "relu1", "relu2"],
    "residual": [
        "input",
        "relu@4x4",
        "layer1.0.relu#0@4x4",
        "layer1.0@4x4",
        "layer1.1.relu#0@4x4",
        "layer1@4x4",
        "fc:input",
    ],
    "functional": ["input", "fc2:input", "readout:input"],
    "transformer": [
        "input",
        "encoder.layers.0",
        "encoder",
        "head:input",
    ],
    "attention": ["input", "attn[0]", "head:input"],
    "conv-only": ["input", "act@4x4"],
    "tuple": ["input", "body"],
    "dict": ["input", "body"],
    "object": ["input", "body"],
    "input-named": ["input", "input#0"],
    "dropout": ["input", "body"],
}


@pytest.mark.parametrize("name", models.MODELS)
def test_default_layers_are_input_blocks_activations_and_the_read_outs_input(name):
    table = us.list_layers(models.build(name), models.data_for(name))
    assert list(table.columns) == ["layer", "module", "shape", "width", "default"]
    assert table["layer"][table["default"]].tolist() == DEFAULTS[name]
    assert table["layer"].is_unique


@pytest.mark.parametrize("name", models.MODELS)
def test_no_two_default_layers_hold_the_same_rows(name):
    rows = captured(models.build(name), models.data_for(name)[0])
    names = list(rows)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            same = rows[first].shape == rows[second].shape
            assert not (same and torch.equal(rows[first], rows[second])), (first, second)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_table_tells_the_shapes_that_the_rows_have(name):
    model, (x, _) = models.build(name), models.data_for(name)
    table = us.list_layers(model, x)
    rows = captured(model, x, table["layer"].tolist())
    assert list(rows) == table["layer"].tolist()  # in execution order
    for layer, shape, width in zip(table["layer"], table["shape"], table["width"], strict=True):
        assert torch.Size(shape).numel() == width
        assert rows[layer].shape == (len(x), width)


@torch.no_grad()
def by_hand_residual(model: models.ResidualNet, x: Tensor) -> dict[str, Tensor]:
    """Compute each layer of the residual network without a single in-place operation."""
    found = {"input": x, "conv1": model.conv1(x)}
    found["relu"] = out = functional.relu(found["conv1"])
    for number, block in enumerate(model.layer1):
        name = f"layer1.{number}"
        found[f"{name}.conv1"] = block.conv1(out)
        found[f"{name}.bn1"] = block.bn1(found[f"{name}.conv1"])
        found[f"{name}.relu#0"] = functional.relu(found[f"{name}.bn1"])
        found[f"{name}.conv2"] = block.conv2(found[f"{name}.relu#0"])
        found[f"{name}.bn2"] = block.bn2(found[f"{name}.conv2"])
        out = functional.relu(found[f"{name}.bn2"] + out)
        found[f"{name}.relu#1"] = found[name] = out
    found["layer1"] = out
    found["pool"] = model.pool(out)
    found["fc:input"] = found["pool"].flatten(1)
    found["fc"] = model.fc(found["fc:input"])
    return found


def test_rows_are_what_each_layer_gave_despite_in_place_relu_and_residual_addition():
    # The batch norm's output is overwritten by `out += x`, then by the shared in-place ReLU.
    model, (x, _) = models.build("residual"), models.data_for("residual")
    expected = by_hand_residual(model, x)
    rows = captured(model, x, list(expected), "flatten")
    assert set(rows) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(rows[name], value.flatten(1), msg=lambda m, n=name: f"{n}: {m}")


def by_hand_mlp(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    found = {"input": x}
    for name, module in model.named_children():
        x = found[name] = functional.relu(x) if isinstance(module, nn.ReLU) else module(x)
    return found


def by_hand_functional(model: models.FunctionalNet, x: Tensor) -> dict[str, Tensor]:
    found = {"input": x, "fc1": model.fc1(x)}
    found["fc2:input"] = functional.relu(found["fc1"])
    found["fc2"] = model.fc2(found["fc2:input"])
    found["readout:input"] = functional.relu(found["fc2"])
    found["readout"] = model.readout(found["readout:input"])
    return found


def by_hand_attention(model: models.AttentionNet, x: Tensor) -> dict[str, Tensor]:
    tokens = x.reshape(len(x), 3, 4)
    mixed, weights = model.attn(tokens, tokens, tokens)
    found = {"input": x, "attn[0]": mixed, "attn[1]": weights, "norm": model.norm(tokens + mixed)}
    found["head:input"] = found["norm"].flatten(1)
    return found


def by_hand_transformer(model: models.TransformerClassifier, x: Tensor) -> dict[str, Tensor]:
    found = {"embed": model.embed(x)}
    out = found["embed"]
    for number, layer in enumerate(model.encoder.layers):
        name = f"encoder.layers.{number}"
        mixed = layer.self_attn(out, out, out)[0]
        found[f"{name}.self_attn[0]"] = mixed
        found[f"{name}.norm1"] = layer.norm1(out + mixed)
        hidden = functional.relu(layer.linear1(found[f"{name}.norm1"]))
        found[f"{name}.linear2"] = layer.linear2(hidden)
        out = layer.norm2(found[f"{name}.norm1"] + found[f"{name}.linear2"])
        found[f"{name}.norm2"] = found[name] = out
    found["encoder"] = out
    found["head:input"] = out.mean(1)
    return found


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("mlp", by_hand_mlp),
        ("functional", by_hand_functional),
        ("attention", by_hand_attention),
        ("transformer", by_hand_transformer),
    ],
)
def test_rows_equal_a_forward_pass_by_hand(name: str, by_hand: Callable):
    model, (x, _) = models.build(name), models.data_for(name)
    with torch.no_grad():
        expected = by_hand(model, x)
    rows = captured(model, x, list(expected))
    assert set(rows) == set(expected)
    for layer, value in expected.items():
        torch.testing.assert_close(
            rows[layer],
            value.flatten(1).float(),
            atol=1e-5,
            rtol=1e-4,
            msg=lambda m, n=layer: f"{n}: {m}",
        )


def test_float64_inputs_of_a_float32_model_are_still_one_layer():
    # What goes into fc1 is then another tensor than what the data gave, with the same values.
    x, y = models.data("rows")
    model = models.build("functional")
    table = us.list_layers(model, (x.double().numpy(), y.numpy()))
    assert table["layer"][table["default"]].tolist() == DEFAULTS["functional"]


def test_the_input_is_what_the_data_gave_even_if_the_model_overwrites_it():
    model = models.InPlaceInputNet().eval()
    x, _ = models.data("rows")
    given = x.clone()
    rows = captured(model, x, ["input", "body.fc1"])
    torch.testing.assert_close(rows["input"], given)
    with torch.no_grad():
        torch.testing.assert_close(rows["body.fc1"], model.body.fc1((given - 1) * 0.5))


# It was never trained: with noise it may answer as by chance, and that is told.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
def test_the_users_arrays_are_not_changed_by_a_model_that_works_in_place():
    # A data loader's batches are copies, so such a model trains well; slices are not copies.
    torch.manual_seed(0)
    model = models.InPlaceInputNet().eval()
    x, y = models.data("rows")
    given = x.clone()
    us.decode(model, (x, y), controls=False)
    assert torch.equal(x, given)


def test_layers_with_padding_masks_can_be_read():
    # With a mask, torch's encoder takes a fast path through nested tensors unless told not to.
    model = models.build("transformer")
    x, _ = models.data("tokens", 20)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[::2, 4:] = False
    batches = [{"input_ids": x[i : i + 5], "mask": mask[i : i + 5]} for i in range(0, 20, 5)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    assert us.list_layers(model, loader)["default"].sum() == len(DEFAULTS["transformer"])


def test_padding_of_another_length_in_each_batch_is_one_clear_error():
    # A layer's rows are then of another width in each batch: no class second moment exists.
    model = models.build("transformer")
    x, y = models.data("tokens", 80)

    def collate(items):
        numbers = torch.tensor(items)
        length = 3 + int(numbers[0]) // 8 % 3
        return {"input_ids": x[numbers, :length], "labels": y[numbers]}

    loader = torch.utils.data.DataLoader(range(80), batch_size=8, collate_fn=collate)
    with pytest.raises(LayerError, match=r"encoder.layers.0"):
        us.decode(model, loader, controls=False)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("relu1", ["relu1"]),
        (["relu2", "relu1"], ["relu1", "relu2"]),  # execution order, whatever the order asked for
        ("fc1,relu2", ["fc1", "relu2"]),
        ("fc*", ["fc1", "fc2"]),
        ("*", ["input", "fc1", "relu1", "fc2", "relu2", "readout"]),
        ("relu?", ["relu1", "relu2"]),
        (["fc*", "fc1"], ["fc1", "fc2"]),  # each once
        (["input", "readout:input"], ["input", "readout:input"]),
        (lambda name, module: isinstance(module, nn.Linear), ["fc1", "fc2", "readout"]),
        (lambda name, module: name.endswith("1"), ["fc1", "relu1"]),
    ],
)
def test_choosing_layers_of_the_mlp(layers, expected):
    assert list(captured(models.build("mlp"), models.data_for("mlp")[0], layers)) == expected


@pytest.mark.parametrize(("side", "once"), [(1, True), (2, False), (4, True)])
def test_what_the_last_pool_makes_of_a_map_is_not_read_twice(side, once):
    model, (x, _) = models.build("residual"), models.data_for("residual")
    model.pool, model.fc = nn.AdaptiveAvgPool2d(side), nn.Linear(3 * side**2, models.CLASSES)
    pool = "mean" if side == 1 else None
    last = f"layer1@{pool or '4x4'}"
    rows = captured(model, x, None, pool)
    assert (last not in rows) == once
    assert "fc:input" in rows
    if once:
        torch.testing.assert_close(captured(model, x, last)[last], rows["fc:input"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("layer1.0.relu", ["layer1.0.relu#0", "layer1.0.relu#1"]),  # a bare name is every call
        ("layer1.0.relu#1", ["layer1.0.relu#1"]),
        ("layer1.*", ["layer1.0", "layer1.1"]),  # one star stays within a component
        ("**.conv1", ["layer1.0.conv1", "layer1.1.conv1"]),
        ("layer1.1.**2", ["layer1.1.conv2", "layer1.1.bn2"]),
        (
            lambda name, module: isinstance(module, nn.ReLU) and name != "relu",
            ["layer1.0.relu#0", "layer1.0.relu#1", "layer1.1.relu#0", "layer1.1.relu#1"],
        ),
    ],
)
def test_choosing_layers_of_the_residual_network(layers, expected):
    model, (x, _) = models.build("residual"), models.data_for("residual")
    assert list(captured(model, x, layers, "flatten")) == expected
    assert list(captured(model, x, layers)) == [f"{name}@4x4" for name in expected]


def test_a_part_of_a_tuple_is_named_by_its_key():
    rows = captured(models.build("attention"), models.data_for("attention")[0], "attn[1]")
    torch.testing.assert_close(rows["attn[1]"].reshape(-1, 3, 3).sum(2), torch.ones(60, 3))


def test_a_part_of_a_dict_is_named_by_its_key():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(models.WIDTH, 5)

        def forward(self, x):
            return {"twice": 2 * self.fc(x), "last_hidden_state": self.fc(x)}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.readout = Encoder(), nn.Linear(5, models.CLASSES)

        def forward(self, x):
            return self.readout(self.encoder(x)["last_hidden_state"])

    model, (x, _) = Net(), models.data("rows")
    rows = captured(model, x, 'encoder["twice"]')
    torch.testing.assert_close(rows['encoder["twice"]'], 2 * model.encoder.fc(x).detach())


def test_a_child_called_input_does_not_hide_the_models_input():
    model, (x, _) = models.build("input-named"), models.data_for("input-named")
    rows = captured(model, x, ["input", "input#0"])
    torch.testing.assert_close(rows["input"], x)
    torch.testing.assert_close(rows["input#0"], model.input(x).detach())


@pytest.mark.parametrize("wrong", ["relu3", "Fc1", "nonsense", "fc9*", "relu1#1", "layer.0"])
def test_an_unknown_layer_names_the_three_closest(wrong):
    model, data = models.build("mlp"), models.data_for("mlp")
    with pytest.raises(LayerError) as caught:
        us.decode(model, data, layers=wrong)
    message = str(caught.value)
    assert repr(wrong) in message
    assert "\n" not in message
    listed = message.rsplit("are ", 1)[1].split(", ")
    assert len(listed) == 3
    assert set(listed) <= set(us.list_layers(model, data)["layer"])


def test_the_closest_are_close():
    with pytest.raises(LayerError, match=r"relu3.*relu2.*relu1|relu3.*relu1.*relu2"):
        us.decode(models.build("mlp"), models.data_for("mlp"), layers=["fc1", "relu3"])


def test_no_layers_at_all_is_an_error():
    with pytest.raises(LayerError):
        us.decode(models.build("mlp"), models.data_for("mlp"), layers=[])
    with pytest.raises(LayerError, match="predicate"):
        us.decode(models.build("mlp"), models.data_for("mlp"), layers=lambda name, module: False)


def test_a_layer_that_never_fires_is_an_error_only_if_asked_for():
    torch.manual_seed(0)
    model, data = models.NeverCalledNet().eval(), models.data("rows")
    with pytest.raises(LayerError, match=r"spare.*never fires"):
        us.decode(model, data, layers="spare")
    assert "spare" not in us.list_layers(model, data)["layer"].tolist()
    us.decode(model, data, controls=False)


# One input is far from all others: noise as wide as they are apart changes what is answered.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
def test_a_layer_that_fires_another_number_of_times_is_an_error_that_names_it():
    model = models.VaryingNet().eval()
    x, y = models.data("rows", 80)
    x[70, 0] = 101.0
    with pytest.raises(LayerError, match=r"batch 2.*'step'.*1 times.*2 times"):
        us.decode(model, (x, y), batch_size=32, controls=False)
    # A tap that every batch passes the same way is fine.
    us.decode(model, (x, y), layers=["readout:input"], batch_size=32, controls=False)


def test_the_hooks_go_when_a_tap_names_no_module():
    model = models.build("mlp")
    place = survey(model, Source(models.data("rows")[0], "inputs").first(3)).places[1]
    other = models.build("functional")
    broken = [place.tap, type(place.tap)("gone", "gone", "output")]
    with pytest.raises(LayerError, match="gone"), capture(other, broken):
        pass
    assert not any(module._forward_hooks for module in other.modules())


def test_a_network_in_inference_mode_can_be_read():
    # Tensors made in inference mode keep no version counter.
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = models.mlp()

        @torch.inference_mode()
        def forward(self, x):
            return self.body(x)

    table = us.list_layers(Net(), models.data("rows"))
    assert {"input", "body.relu1", "body.relu2"} <= set(table["layer"][table["default"]])


@pytest.mark.parametrize(
    "model",
    [models.SegmentationNet(), nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), nn.Flatten(0)],
    ids=["segmentation", "one logit", "no batch"],
)
def test_what_is_no_single_label_classifier_is_refused(model):
    with pytest.raises(ModelError, match="logits of shape") as caught:
        us.decode(model, models.data("images"))
    assert "\n" not in str(caught.value)


def test_a_model_that_returns_no_tensor_is_refused():
    class Net(nn.Module):
        def forward(self, x):
            return "cat"

    with pytest.raises(ModelError, match="str"):
        us.list_layers(Net(), models.data("rows"))


def test_a_model_that_does_not_fit_the_data_is_one_line_with_the_shapes():
    with pytest.raises(ModelError, match=r"RuntimeError on float32 \(3, 1, 6, 6\)") as caught:
        us.list_layers(models.build("mlp"), models.data("images"))
    assert "\n" not in str(caught.value)


def test_list_layers_takes_what_decode_takes_and_refuses_the_rest():
    model = models.build("mlp")
    x, y = models.data("rows")
    tables = [
        us.list_layers(model, example)
        for example in (
            x,
            x.numpy(),
            (x, y),
            torch.utils.data.TensorDataset(x, y),
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8),
        )
    ]
    assert all(table.equals(tables[0]) for table in tables)
    for wrong in (42, None, "file.npy", {"x": "cat"}):
        with pytest.raises(DataError, match="example"):
            us.list_layers(model, wrong)

import pytest
import torch
from torch import nn

from underscript.errors import ModelError
from underscript.experiments.architectures import PROBED, build

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def linear(d_in, d_out, bias=True):
    return d_in * d_out + bias * d_out


def convolution(c_in, c_out):
    return c_in * c_out * 9 + c_out


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_mlp_has_the_parameters_that_the_paper_describes(shape):
    channels, height, width = shape
    assert parameters(build("mlp", shape, 10, seed=0)) == (
        linear(channels * height * width, 128)
        + linear(128, 512)
        + linear(512, 2048)
        + linear(2048, 2048)
        + linear(2048, 10)
    )


@pytest.mark.parametrize(("shape", "pooled"), [*zip(SHAPES, [1, 9, 16], strict=True)])
def test_cnn_has_the_parameters_that_the_paper_describes(shape, pooled):
    assert parameters(build("cnn", shape, 10, seed=0)) == (
        convolution(shape[0], 16)
        + convolution(16, 16)
        + convolution(16, 32)
        + convolution(32, 32)
        + convolution(32, 64)
        + convolution(64, 64)
        + linear(64 * pooled, 250)
        + 2 * linear(250, 250)
        + linear(250, 10, bias=False)
    )


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", SHAPES)
def test_probed_layers_exist_and_fire_in_order(arch, shape):
    model = build(arch, shape, 7, seed=0)
    fired = {}
    for name in PROBED[arch][1:]:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: fired.setdefault(name, output)
        )
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    assert tuple(fired) == PROBED[arch][1:]
    for name, output in fired.items():
        assert output.ndim == 2
        assert (output >= 0).all(), f"{name} is not what comes out of a ReLU"


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_mlp_and_cnn_compute_what_a_plain_chain_of_layers_does(arch):
    model = build(arch, (1, 8, 8), 10, seed=3)
    plain = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.ReLU | nn.Conv2d | nn.MaxPool2d | nn.Flatten)
    ]
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(model(x), nn.Sequential(*plain)(x))
    assert (model.readout.bias is None) == (arch == "cnn")


def test_weights_depend_on_the_seed_alone_and_the_random_state_is_left():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build("cnn", (1, 8, 8), 10, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (build("cnn", (1, 8, 8), 10, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc1.0.weight"], other["fc1.0.weight"])


@pytest.mark.parametrize(
    ("arch", "shape", "message"),
    [
        ("resnet", (1, 8, 8), r"'resnet'; choose one of \['mlp', 'cnn'\]"),
        ("cnn", (1, 7, 8), r"at least 8, found \(1, 7, 8\)"),
        ("cnn", (64,), r"found \(64,\)"),
        ("mlp", (), "input shape"),
        ("mlp", (1, 0, 8), "input shape"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(arch, shape, message):
    with pytest.raises(ModelError, match=message):
        build(arch, shape, 10, seed=0)


def test_no_classes_cannot_be_built():
    with pytest.raises(ModelError, match="number of classes"):
        build("mlp", (4,), 0, seed=0)

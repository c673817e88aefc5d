import pytest
import torch
from torch import nn
from torch.nn import functional

from underscript import list_layers
from underscript.errors import ModelError
from underscript.experiments.architectures import build
from underscript.experiments.catalogue import PROBED

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]

# Architecture, input shape, number of classes.
PAPER = [
    ("mlp", (1, 28, 28), 10),
    ("mlp", (3, 32, 32), 10),
    ("cnn", (1, 28, 28), 10),
    ("cnn", (3, 32, 32), 10),
    ("alexnet", (3, 64, 64), 200),
    ("alexnet", (3, 32, 32), 100),
    ("resnet18", (3, 32, 32), 10),
]


def linear(d_in, d_out, bias=True):
    return d_in * d_out + bias * d_out


def convolution(c_in, c_out, kernel=3, bias=True):
    return c_in * c_out * kernel**2 + bias * c_out


def normed(c_in, c_out, kernel=3):
    """Count a convolution without bias and its batch norm's scales and shifts."""
    return convolution(c_in, c_out, kernel, bias=False) + 2 * c_out


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "total"),
    [((1, 8, 8), 5_341_834), ((1, 28, 28), 5_433_994), ((3, 32, 32), 5_726_858)],
)
def test_mlp_has_the_parameters_that_the_paper_describes(shape, total):
    channels, height, width = shape
    derived = (
        linear(channels * height * width, 128)
        + linear(128, 512)
        + linear(512, 2048)
        + linear(2048, 2048)
        + linear(2048, 10)
    )
    assert parameters(build("mlp", shape, 10, seed=0)) == derived == total


@pytest.mark.parametrize(
    ("shape", "pooled", "total"),
    [((1, 8, 8), 1, 216_042), ((1, 28, 28), 9, 344_042), ((3, 32, 32), 16, 456_330)],
)
def test_cnn_has_the_parameters_that_the_paper_describes(shape, pooled, total):
    derived = (
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
    assert parameters(build("cnn", shape, 10, seed=0)) == derived == total


@pytest.mark.parametrize(
    ("side", "kernel", "classes", "total"), [(64, 11, 200, 21_123_080), (32, 3, 100, 20_691_876)]
)
def test_alexnet_has_the_parameters_that_the_paper_describes(side, kernel, classes, total):
    derived = (
        convolution(3, 64, kernel)
        + convolution(64, 192, 5)
        + convolution(192, 384)
        + convolution(384, 256)
        + convolution(256, 256)
        + linear(256, 4096)
        + linear(4096, 4096)
        + linear(4096, classes)
    )
    assert parameters(build("alexnet", (3, side, side), classes, seed=0)) == derived == total


def test_resnet18_has_the_parameters_that_the_paper_describes():
    derived = normed(3, 64) + 4 * normed(64, 64) + linear(512, 10)
    for narrow, wide in [(64, 128), (128, 256), (256, 512)]:
        derived += normed(narrow, wide) + 3 * normed(wide, wide) + normed(narrow, wide, kernel=1)
    assert parameters(build("resnet18", (3, 32, 32), 10, seed=0)) == derived == 11_173_962


def test_resnet18_at_a_quarter_of_its_width_has_a_quarter_of_the_channels_everywhere():
    derived = normed(3, 16) + 4 * normed(16, 16) + linear(128, 10)
    for narrow, wide in [(16, 32), (32, 64), (64, 128)]:
        derived += normed(narrow, wide) + 3 * normed(wide, wide) + normed(narrow, wide, kernel=1)
    model = build("resnet18", (3, 32, 32), 10, seed=0, width=0.25)
    assert parameters(model) == derived == 701_466
    layers = list_layers(model, torch.randn(2, 3, 32, 32), "flatten").set_index("layer")
    whole = [16384, 16384, 16384, 8192, 4096, 2048, 512]
    assert layers.loc[list(PROBED["resnet18"][1:]), "width"].tolist() == [w // 4 for w in whole]


@pytest.mark.parametrize(
    ("arch", "width", "message"),
    [
        ("cnn", 0.5, "width: expected 1, as only resnet18 can be narrower; found 0.5"),
        ("mlp", 2, "width: expected 1, as only resnet18 can be narrower; found 2"),
        ("resnet18", 0.01, "width: expected a share of the channels from 1/64 to 1; found 0.01"),
        ("resnet18", 1.5, "from 1/64 to 1; found 1.5"),
        ("resnet18", float("nan"), "from 1/64 to 1; found nan"),
    ],
)
def test_a_width_that_cannot_be_built_is_one_clear_line(arch, width, message):
    with pytest.raises(ModelError, match=message) as caught:
        build(arch, (3, 32, 32), 10, seed=0, width=width)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "shape", "widths"),
    [
        ("mlp", (1, 28, 28), [784, 128, 512, 2048, 2048]),
        ("mlp", (3, 32, 32), [3072, 128, 512, 2048, 2048]),
        ("cnn", (1, 28, 28), [784, 576, 250, 250, 250]),
        ("cnn", (3, 32, 32), [3072, 1024, 250, 250, 250]),
        ("alexnet", (3, 64, 64), [12288, 256, 4096, 4096]),
        ("alexnet", (3, 32, 32), [3072, 256, 4096, 4096]),
        ("resnet18", (3, 32, 32), [3072, 16384, 16384, 16384, 8192, 4096, 2048, 512]),
    ],
)
def test_probed_layers_have_the_widths_that_the_paper_gives(arch, shape, widths):
    layers = list_layers(build(arch, shape, 10, seed=0), torch.randn(2, *shape), "flatten")
    layers = layers.set_index("layer")
    assert layers.loc[list(PROBED[arch]), "width"].tolist() == widths


def test_resnet18_layers_are_maps_until_they_are_pooled_to_a_row():
    model = build("resnet18", (3, 32, 32), 10, seed=0)
    layers = list_layers(model, torch.randn(2, 3, 32, 32), "flatten").set_index("layer")
    assert layers.loc[list(PROBED["resnet18"][1:]), "shape"].tolist() == [
        (64, 16, 16),
        (64, 16, 16),
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
        (512,),
    ]


def record(model, names):
    """Hook the named layers; the dictionary returned holds their outputs, in order of firing."""
    fired = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: fired.setdefault(name, output)
        )
    return fired


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        *[(arch, shape) for arch in ("mlp", "cnn", "resnet18") for shape in SHAPES],
        *[("alexnet", (channels, side, side)) for channels in (1, 3) for side in (32, 64)],
    ],
)
def test_probed_layers_exist_and_fire_in_order(arch, shape):
    model = build(arch, shape, 7, seed=0)
    fired = record(model, PROBED[arch][1:])
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    assert tuple(fired) == PROBED[arch][1:]
    for name, output in fired.items():
        assert output.ndim == 2 or arch == "resnet18"
        assert (output >= 0).all(), f"{name} is not what comes out of a ReLU"


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("cnn", (1, 8, 8)),
        ("alexnet", (3, 32, 32)),
        ("alexnet", (3, 64, 64)),
    ],
)
def test_networks_without_shortcuts_compute_what_a_plain_chain_of_layers_does(arch, shape):
    model = build(arch, shape, 10, seed=3)
    plain = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.ReLU | nn.Conv2d | nn.MaxPool2d | nn.Flatten)
    ]
    x = torch.randn(5, *shape)
    assert torch.equal(model(x), nn.Sequential(*plain)(x))
    assert (model.readout.bias is None) == (arch == "cnn")


@pytest.mark.parametrize(
    ("side", "first"),
    [(64, {"stride": 4, "padding": 2}), (32, {"stride": 2, "padding": 1})],
)
def test_alexnet_computes_what_the_paper_describes(side, first):
    model = build("alexnet", (3, side, side), 10, seed=3)
    weights = list(model.parameters())
    pairs = [*zip(weights[::2], weights[1::2], strict=True)]
    x = given = torch.randn(3, 3, side, side)
    paddings = [first, {"padding": 2}, {"padding": 1}, {"padding": 1}, {"padding": 1}]
    for number, (pair, settings) in enumerate(zip(pairs[:5], paddings, strict=True)):
        x = functional.relu(functional.conv2d(x, *pair, **settings))
        if number in (0, 1, 4):
            x = functional.max_pool2d(x, 3, 2)
    x = x.reshape(3, 256)
    for pair in pairs[5:7]:
        x = functional.relu(functional.linear(x, *pair))
    torch.testing.assert_close(model(given), functional.linear(x, *pairs[7]))


def plain_resnet18(state, x):
    """Give the output of each probed layer and the logits, from a state and functions alone."""

    def normed(x, convolution, norm, stride=1):
        weight = state[f"{convolution}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *[state[f"{norm}.{name}"] for name in names])

    x = functional.relu(normed(x, "stem.conv", "stem.norm"))
    x = functional.max_pool2d(x, 3, 2, padding=1)
    outputs = {"stem": x}
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"stage{stage}.{block}"
            changes = block == 0 and stage > 1
            inner = f"{name}.residual"
            y = functional.relu(normed(x, f"{inner}.conv1", f"{inner}.norm1", 1 + changes))
            y = normed(y, f"{inner}.conv2", f"{inner}.norm2")
            if changes:
                x = normed(x, f"{name}.shortcut.conv", f"{name}.shortcut.norm", stride=2)
            outputs[name] = x = functional.relu(x + y)
        outputs[f"stage{stage}"] = x
    outputs["pooled"] = x.mean((2, 3))
    logits = functional.linear(outputs["pooled"], state["readout.weight"], state["readout.bias"])
    return outputs, logits


def test_resnet18_computes_what_the_paper_describes_in_every_layer():
    model = build("resnet18", (3, 32, 32), 10, seed=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Each norm gets statistics of its own, or two that were swapped would go unseen.
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    fired = record(model, PROBED["resnet18"][1:])
    x = torch.randn(2, 3, 32, 32)
    logits = model(x)
    expected, expected_logits = plain_resnet18(model.state_dict(), x)
    torch.testing.assert_close(logits, expected_logits)
    for name, output in fired.items():
        torch.testing.assert_close(output, expected[name])


@pytest.mark.parametrize("arch", list(PROBED))
def test_weights_depend_on_the_seed_alone_and_the_random_state_is_left(arch):
    shape = (1, 32, 32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(arch, shape, 10, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (build(arch, shape, 10, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["readout.weight"], other["readout.weight"])


@pytest.mark.parametrize(("arch", "shape", "classes"), PAPER)
def test_one_training_step_changes_all_weights_and_has_a_finite_loss(arch, shape, classes):
    model = build(arch, shape, classes, seed=0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, generator=generator)
    y = torch.randint(classes, (2,), generator=generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(x)
    assert logits.shape == (2, classes)
    loss = functional.cross_entropy(logits, y)
    assert torch.isfinite(loss)
    loss.backward()
    optimiser.step()
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[name]), f"{name} stayed as it was"


@pytest.mark.parametrize(
    ("arch", "shape", "message"),
    [
        (
            "resnet",
            (1, 8, 8),
            r"'resnet'; choose one of \['mlp', 'cnn', 'small-cnn', 'alexnet', 'resnet18'\]",
        ),
        ("cnn", (1, 7, 8), r"at least 8, found \(1, 7, 8\)"),
        ("cnn", (64,), r"found \(64,\)"),
        ("alexnet", (3, 48, 48), r"\(channels, 64, 64\), found \(3, 48, 48\); resize"),
        ("alexnet", (3, 32, 64), r"\(channels, 32, 32\) or .*, found \(3, 32, 64\)"),
        ("alexnet", (64, 64), r"found \(64, 64\)"),
        ("alexnet", (0, 32, 32), "input shape"),
        ("resnet18", (32, 32), r"\(channels, height, width\), found \(32, 32\); use the MLP"),
        ("resnet18", (3, 32, 0), "input shape"),
        ("mlp", (), "input shape"),
        ("mlp", (1, 0, 8), "input shape"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(arch, shape, message):
    with pytest.raises(ModelError, match=message) as caught:
        build(arch, shape, 10, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "shape"),
    [("mlp", (4,)), ("cnn", (1, 8, 8)), ("alexnet", (3, 32, 32)), ("resnet18", (3, 32, 32))],
)
def test_no_classes_cannot_be_built(arch, shape):
    with pytest.raises(ModelError, match="number of classes"):
        build(arch, shape, 0, seed=0)

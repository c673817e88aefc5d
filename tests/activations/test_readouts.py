"""What a model returns: where its logits are found, and what is no single-label classifier."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
import underscript as us
from underscript.errors import DataError, LabelError, ModelError


class Returns(nn.Module):
    """An MLP that returns what a function makes of its hidden layer and its read-outs."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(models.WIDTH, 16), nn.ReLU())
        self.readout = nn.Linear(16, models.CLASSES)
        self.other = nn.Linear(16, 3)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        return self.answer(hidden, self.readout(hidden), self.other)


def build(answer: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return Returns(answer).eval()


GOOD = {
    "a tuple, logits first": lambda h, z, o: (z, h),
    "a list": lambda h, z, o: [z],
    "a tuple with a loss": lambda h, z, o: (z.mean(), z),
    "a dict": lambda h, z, o: {"out": z, "hidden": h},
    "a dict with a loss": lambda h, z, o: {"loss": z.mean(), "scores": z},
    "logits by name, whatever comes first": lambda h, z, o: {"hidden": h, "a": o(h), "logits": z},
    "a nest": lambda h, z, o: {"heads": [{"z": z}], "maps": h[:, :, None, None]},
    "probabilities": lambda h, z, o: (z.softmax(1), h),
}


@pytest.mark.parametrize("how", GOOD)
def test_the_models_own_accuracy_is_that_of_its_logits(how):
    x, y = models.data("rows")
    model = build(GOOD[how])
    with torch.no_grad():
        right = (model.readout(model.body(x)).argmax(1) == y).double().mean()
    found = us.decode(model, (x, y), layers="body", controls=False, auto=False, progress=False)
    assert found.summary["model"]["accuracy"]["train_given"] == pytest.approx(float(right))
    assert found.summary["model"]["n_classes"] == models.CLASSES


SEVERAL = {
    "hidden first": (
        lambda h, z, o: (h, z),
        r"output\[0\] \(3, 16\), output\[1\] \(3, 4\), of "
        r"which output\[1\] may",
    ),
    "hidden first in a dict": (
        lambda h, z, o: {"hidden": h, "out": z},
        r'of which output\["out"\]',
    ),
    "two tasks": (
        lambda h, z, o: {"colour": z, "shape": o(h)},
        r'of which output\["colour"\] and output\["shape"\] may be its logits',
    ),
    "a list of heads": (lambda h, z, o: [z, o(h)], r"output\[0\] and output\[1\]"),
}


@pytest.mark.parametrize("how", SEVERAL)
def test_several_things_that_may_be_logits_are_refused(how):
    answer, says = SEVERAL[how]
    for call in (us.list_layers, us.decode):
        with pytest.raises(ModelError, match=says) as caught:
            call(build(answer), models.data("rows"))
        assert "\n" not in str(caught.value)
        assert 'return one, or a dict that calls it "logits"' in str(caught.value)


SHAPES = {
    "one logit (n, 1)": (lambda h, z, o: z[:, :1], "one logit, return two"),
    "one logit (n,)": (lambda h, z, o: z[:, 0], "one logit, return two"),
    "one logit in a dict": (lambda h, z, o: {"logits": z[:, :1]}, "one logit, return two"),
    "a class a pixel": (lambda h, z, o: z[:, :, None, None], "Only single-label classifiers"),
    "a class a pixel, in a dict": (lambda h, z, o: {"out": z[:, :, None, None]}, r"\(3, 4, 1, 1\)"),
    "a class a token": (lambda h, z, o: z[:, None].expand(-1, 5, -1), r"\(3, 5, 4\)"),
    "only a loss": (lambda h, z, o: {"loss": z.mean()}, r"returned \(\)"),
    "nothing": (lambda h, z, o: None, "returned NoneType"),
}


@pytest.mark.parametrize("how", SHAPES)
def test_what_is_no_single_label_classifier_says_so(how):
    answer, says = SHAPES[how]
    with pytest.raises(ModelError, match=says) as caught:
        us.decode(build(answer), models.data("rows"))
    assert "\n" not in str(caught.value)


def test_one_logit_becomes_two_as_the_message_says():
    def two(_hidden: Tensor, logits: Tensor, _other: nn.Module) -> Tensor:
        logit = logits[:, :1]
        return torch.cat([torch.zeros_like(logit), logit], 1)

    model = build(two)
    x, y = models.data("rows")
    with torch.no_grad():
        right = ((model.readout(model.body(x))[:, 0].sigmoid() > 0.5) == (y % 2)).double().mean()
    found = us.decode(model, (x, y % 2), layers="body", controls=False, auto=False, progress=False)
    assert found.summary["model"]["accuracy"]["train_given"] == pytest.approx(float(right))


def test_several_labels_a_sample_are_refused():
    x, y = models.data("rows")
    many = nn.functional.one_hot(y, models.CLASSES)
    with pytest.raises(LabelError, match=r"one label a sample, shape \(n,\); found \(60, 4\)"):
        us.decode(models.build("mlp"), (x, many))


def test_texts_of_several_lengths_that_nobody_pads_say_what_to_do():
    data = [{"input_ids": torch.arange(n), "labels": n % 2} for n in (3, 4, 5)]
    with pytest.raises(DataError, match=r"batch 0.*collate_fn.*pads") as caught:
        us.decode(models.build("transformer"), data)
    assert "\n" not in str(caught.value)

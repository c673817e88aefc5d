"""Names that do not exist but that people try: the error says what to use instead."""

import copy
import inspect
import pickle
import re
import traceback
import typing

import pytest

import underscript as us
from small_decodes import GIVEN, HOLD_GIVEN, HOLD_X, MODEL, X, Y, run
from underscript.errors import ArgumentError
from underscript.results.decoder import Decoder
from underscript.utils import hints


@pytest.fixture(scope="module")
def decoding() -> us.Decoding:
    return run(controls=False)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("predict", r"the decoded classifier is best: decoding\.best\.predict\(x\)"),
        ("issues", r"label issues are in a table: decoding\.label_issues\(\)"),
        ("labels", r"decoding\.relabel\(\)"),
        ("to_onnx", r"decoding\.best\.export\(path\) writes an ONNX file"),
        ("confused_pair", "did you mean 'confused_pairs'?"),
        ("verdit", "did you mean 'verdict'?"),
    ],
)
def test_an_attribute_that_people_try_says_what_to_use(decoding, name, hint):
    with pytest.raises(AttributeError, match=f"^Decoding has no attribute '{name}'; .*{hint}"):
        getattr(decoding, name)
    assert not hasattr(decoding, name)
    assert getattr(decoding, name, "default") == "default"


def test_the_decoder_says_what_belongs_to_the_decoding(decoding):
    with pytest.raises(AttributeError, match=r"Decoder has no .*: decoding\.label_issues\(\)"):
        decoding.best.label_issues  # noqa: B018
    with pytest.raises(AttributeError, match=r"did you mean 'predict_proba'\?"):
        decoding.best.predict_probas  # noqa: B018


@pytest.mark.parametrize(
    ("kind", "table"), [(us.Decoding, hints.DECODING), (Decoder, hints.DECODER)]
)
def test_hints_name_what_there_is_and_only_for_what_there_is_not(decoding, kind, table):
    owner = decoding if kind is us.Decoding else decoding.best
    for name, hint in table.items():
        assert not hasattr(owner, name), f"{name} exists: it needs no hint"
        for path in re.findall(r"\b(?:decoding|us|best)(?:\.\w+)+", hint):
            thing = {"decoding": decoding, "us": us, "best": decoding.best}[path.split(".")[0]]
            for part in path.split(".")[1:]:
                thing = getattr(thing, part)


def test_the_hint_stands_alone_in_a_traceback(decoding):
    with pytest.raises(AttributeError) as caught:
        decoding.label_issue  # noqa: B018
    shown = "".join(traceback.format_exception(caught.value))
    # Python adds a guess of its own where it knows the object.
    assert shown.count("label_issues") == 1


def test_probes_of_other_programs_find_nothing(decoding):
    for name in ("_ipython_display_", "_repr_mimebundle_", "__array__", "_ipython_canary_"):
        assert not hasattr(decoding, name)
        with pytest.raises(AttributeError, match=f"^Decoding has no attribute '{name}'$"):
            getattr(decoding, name)


def test_copies_are_as_before(decoding):
    other = copy.copy(decoding)
    assert other.table is decoding.table
    assert copy.deepcopy(decoding).verdict == decoding.verdict
    again = pickle.loads(pickle.dumps(decoding))
    assert again.verdict == decoding.verdict
    assert (again.best.predict(X) == decoding.best.predict(X)).all()
    half = us.Decoding.__new__(us.Decoding)
    with pytest.raises(AttributeError, match="_summary"):
        half.verdict  # noqa: B018


def test_a_property_that_fails_keeps_its_own_error():
    class Odd(us.Decoding):
        @property
        def memory(self):
            return self.table.no_such_column

    half = Odd.__new__(Odd)
    half.table = 5
    with pytest.raises(AttributeError, match="'int' object has no attribute 'no_such_column'"):
        half.memory  # noqa: B018


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"val": (HOLD_X, HOLD_GIVEN)}, "'val'; use holdout="),
        ({"validation": (HOLD_X, HOLD_GIVEN)}, "'validation'; use holdout="),
        ({"classes": list("abcd")}, "'classes'; use class_names="),
        ({"y": GIVEN}, "'y'; use labels=, or give train as a pair"),
        ({"targets": GIVEN}, "'targets'; use labels="),
        ({"clean_labels": Y}, "'clean_labels'; use true_labels="),
        ({"epochs": 3}, "'epochs'; leave it out: decoding trains nothing"),
        ({"noise": 0.4}, "'noise'; leave it out: it is estimated"),
        ({"n_jobs": 2}, "'n_jobs'; .*group="),
        ({"batchsize": 2}, r"'batchsize'; did you mean batch_size=\?"),
        ({"qqq": 2}, "'qqq'; its arguments are model, train, test, holdout"),
    ],
)
def test_an_argument_that_people_try_says_what_to_use(given, hint):
    with pytest.raises(ArgumentError, match=rf"^decode\(\) has no argument {hint}") as caught:
        us.decode(MODEL, (X, GIVEN), **given)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, us.UnderscriptError)
    assert "\n" not in str(caught.value)


def test_data_under_another_name_are_the_training_data():
    with pytest.raises(ArgumentError, match=r"'data'; use train=: .* a pair \(x, y\)"):
        us.decode(MODEL, data=(X, GIVEN))


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: us.retrain(MODEL, (X, GIVEN), GIVEN, lr=0.1), "lr'; use learning_rate="),
        (lambda: us.retrain(MODEL, (X, GIVEN), GIVEN, val=1), "val'; use holdout="),
        (lambda: us.corrupt_labels(Y, rate=0.4), "rate'; use degree="),
        (lambda: us.load("run", modle=MODEL), "modle'; did you mean model="),
    ],
)
def test_other_functions_do_so_too(call, hint):
    with pytest.raises(ArgumentError, match=hint):
        call()


@pytest.mark.parametrize(
    ("function", "table"),
    [
        (us.decode, hints.DECODE_ARGUMENTS),
        (us.retrain, hints.RETRAIN_ARGUMENTS),
        (us.corrupt_labels, hints.CORRUPT_ARGUMENTS),
    ],
)
def test_signatures_stay_explicit_and_hints_name_real_arguments(function, table):
    parameters = inspect.signature(function).parameters
    assert all(p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())
    assert set(typing.get_type_hints(function)) == {*parameters, "return"}
    assert function.__doc__
    for name, hint in table.items():
        assert name not in parameters
        for argument in re.findall(r"use (\w+)=", hint):
            assert argument in parameters, f"{name}: {hint}"

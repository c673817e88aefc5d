"""Options that no command has, as people try them: one line that names the one that was meant."""

import re

import pytest

from underscript.cli.command_line import _parser, main
from underscript.utils.hints import OPTIONS


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("decode", "--val", "--holdout"),
        ("decode", "--valid=mine.py:val", "--holdout"),
        ("audit", "--validation", "--holdout"),
        ("decode", "--names", "--classes"),
        ("audit", "--class-names", "--classes"),
        ("decode", "--output", "--out"),
        ("decode", "-o", "--out"),
        ("decode", "--data", "--train"),
        ("retrain", "--val", "--holdout"),
        ("retrain", "--class-names", "--classes"),
        ("transfer", "--checkpoint", "--weights"),
        ("decode", "--batch_size", "--batch-size"),
    ],
)
def test_the_error_names_the_option_that_was_meant(capsys, command, option, meant):
    # What is required is missing too: the wrong name is said first.
    assert main([command, option, "mine.py:val"]) == 2
    said = capsys.readouterr().err
    name = option.partition("=")[0]
    assert said == (
        f"underscript: error: unrecognized argument {name}; did you mean {meant}? "
        f"(see `underscript {command} --help`)\n"
    )


def test_an_option_like_no_other_has_no_hint(capsys):
    assert main(["decode", "--qqqqqq"]) == 2
    assert "unrecognized argument --qqqqqq (see" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--hold", "--holdout", "--true", "--class"])
def test_the_start_of_an_option_is_enough(capsys, option):
    # Only what is required is missing.
    assert main(["decode", option, "x"]) == 2
    assert "arguments are required: --train, --out" in capsys.readouterr().err


def test_values_are_no_options(capsys):
    assert main(["decode", "--seed", "-1", "--train", "no.npy", "--out", "run"]) == 2
    assert "no.npy is not a file" in capsys.readouterr().err


def test_what_is_meant_exists_and_what_people_try_does_not():
    (commands,) = (a for a in _parser()._subparsers._group_actions)
    options = [set(command._option_string_actions) for command in commands.choices.values()]
    assert set(OPTIONS.values()) <= set.union(*options)
    # The data set of the demo is --data; it has no --train.
    assert not any({tried, meant} <= known for tried, meant in OPTIONS.items() for known in options)
    assert all(re.fullmatch(r"--?[a-z]+([-_][a-z]+)*", option) for option in OPTIONS)

"""Options that no command has: the error names the one that was meant."""

from collections.abc import Callable, Collection, Sequence

from ..utils.hints import OPTIONS
from ..utils.near_names import closest

__all__ = ["check_options"]


def check_options(
    arguments: Sequence[str], known: Collection[str], error: Callable[[str], object]
) -> None:
    """Report the first option among a command's arguments that the command does not have.

    Parameters
    ----------
    arguments : sequence of str
        What stands after the command.
    known : collection of str
        The command's options, such as ``--holdout``; the start of one is enough.
    error : callable
        Takes the message.
    """
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if not _is_option(name) or any(option.startswith(name) for option in known):
            continue
        meant = OPTIONS.get(name, "")
        # Single letters are like nothing.
        near = meant if meant in known else closest(name, known) if len(name) > 2 else None
        error(f"unrecognized argument {name}" + ("" if near is None else f"; did you mean {near}?"))


def _is_option(argument: str) -> bool:
    """Say whether an argument is an option: no value, and no negative number."""
    return argument.startswith("-") and argument.lstrip("-")[:1].isalpha()

"""Hints for names that do not exist but that people try: attributes, arguments, options."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from ..errors import ArgumentError

__all__ = ["closest", "missing_attribute", "with_argument_hints"]

P = ParamSpec("P")
R = TypeVar("R")


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like another one, or None if none is.

    >>> closest("confused_pair", ["verdict", "confused_pairs"])
    'confused_pairs'
    >>> closest("zzz", ["verdict", "confused_pairs"])
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def missing_attribute(owner: object, name: str, hints: Mapping[str, str]) -> Any:
    """Raise the error of an attribute that an object does not have; for ``__getattr__``.

    Parameters
    ----------
    owner : object
        The object. Nothing of it is read, so that it may be half made, as in a copy.
    name : str
        The attribute.
    hints : mapping of str to str
        What to use instead, by name. For all other names the hint is the closest attribute.

    Raises
    ------
    AttributeError
        Always, unless a property of this name works at a second try.
    """
    kind = type(owner)
    if hasattr(kind, name):
        # A property raised an AttributeError of its own: that one says what is wrong.
        return object.__getattribute__(owner, name)
    message = f"{kind.__name__} has no attribute {name!r}"
    # Other programs ask for private names, to see what an object can do.
    if not name.startswith("_"):
        near = closest(name, (known for known in dir(owner) if not known.startswith("_")))
        if name in hints:
            message += f"; {hints[name]}"
        elif near is not None:
            message += f"; did you mean {near!r}?"
    # Without `obj` Python adds no guess of its own.
    raise AttributeError(message, name=name)


def with_argument_hints(hints: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function say what to use instead of a keyword argument that it does not have.

    Its signature stays as it is.

    Parameters
    ----------
    hints : mapping of str to str
        What to use instead, by name. For all other names the hint is the closest argument.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise ArgumentError(_no_argument(function.__name__, name, known, hints))
            return function(*args, **kwargs)

        return checked

    return decorate


def _no_argument(function: str, name: str, known: list[str], hints: Mapping[str, str]) -> str:
    hint = hints.get(name)
    if hint is None:
        near = closest(name, known)
        hint = f"its arguments are {', '.join(known)}" if near is None else f"did you mean {near}=?"
    return f"{function}() has no argument {name!r}; {hint}"

"""What a monitor was told to do, and whether it is told the same when it goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...activations.perturbation import check_choice
from ...errors import ArgumentError, DataError

__all__ = ["check_same", "checked_settings", "settings_to_resume"]

# In the place of a function, which cannot be written down.
_OWN = "a function"


def checked_settings(**settings: Any) -> dict[str, Any]:
    """Return settings as they are written down.

    Raises
    ------
    DataError
        If one cannot be used.
    """
    for name, least in (("n_probe", 2), ("every", 1), ("views", 1)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"{name}: expected a whole number of at least {least}; found {value!r}")
    check_choice(settings["perturb"])
    return {name: _OWN if callable(value) else value for name, value in settings.items()}


def settings_to_resume(
    before: Mapping[str, Any], given: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the settings of a monitor that goes on: those given, others as before.

    Raises
    ------
    ArgumentError
        If a setting is unknown.
    DataError
        If a function is missing.
    """
    known = [*before, "live"]
    for name in given:
        if name not in known:
            raise ArgumentError(f"resume: unknown setting {name!r}; known: {', '.join(known)}")
    for name in ("layers", "perturb"):
        if before.get(name) == _OWN and not callable(given.get(name)):
            raise DataError(f"{name}: was a function; give the same again to resume {folder}")
    return {**before, **given}


def check_same(
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    where: str,
) -> None:
    """Check that settings and data are those of before.

    Raises
    ------
    DataError
        If one is not.
    """
    for name, value in settings.items():
        if value != before.get(name):
            raise DataError(
                f"{name}: expected {before.get(name)!r}, as in {where}; found {value!r}. "
                "Start a new monitor for other settings"
            )
    for role, mark in fingerprints.items():
        if mark != data.get(role):
            raise DataError(
                f"{role}: expected the same samples and labels as in {where}; found others"
            )

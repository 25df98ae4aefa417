"""Checks of constructor arguments that several datasets share."""

from __future__ import annotations

from collections.abc import Iterable

from experiment.errors import UserError, nearest


def whole_number(argument: str, value: object, least: int) -> int:
    """Return ``value`` if it is a whole number of at least ``least``.

    Raises:
        UserError: naming the argument, what was expected and what was found.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{argument}: expected a whole number >= {least}, found {value!r}")
    return value


def one_of(argument: str, value: str, valid: Iterable[str]) -> str:
    """Return ``value`` if it is among ``valid``.

    Raises:
        UserError: naming the argument, the valid names and the nearest of them.
    """
    names = tuple(valid)
    if value not in names:
        raise UserError(
            f"{argument}: expected one of {', '.join(names)}, "
            f"found {value!r}{nearest(str(value), names)}"
        )
    return value

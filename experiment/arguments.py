"""Checks of keys' and plug-ins' values: each error names expectation and finding.

Types and limits are read from annotations such as ``Annotated[int, Field(ge=1, le=4096)]`` and
checked by pydantic, strictly: a whole number may stand for a float, nothing else is converted.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fl2ora.experiment.errors import UserError, nearest, shown

LARGEST = 2**31 - 1  # of any number in a plug-in's arguments
MOST = 4096  # of a size or count that says nothing else: a rank, a prompt's length, a depth
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

_SCALARS = (bool, int, float, str, None, type(None))
_SIGNS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_FINITE = "expected a finite number, found "


def problem_with(annotation: Any, value: object) -> str | None:
    """Return what is wrong with a value for an annotation, or None.

    Annotations made of anything but bool, int, float, str, None, ``Literal`` and limits on them
    are not looked into.

    >>> from pydantic import Field
    >>> problem_with(Annotated[int, Field(ge=1, le=64)], 100)
    'expected at least 1 and at most 64, found 100'
    >>> problem_with(float | None, "x")
    "expected float or None, found 'x' (str)"
    """
    if not _is_plain(annotation):
        return None
    try:
        TypeAdapter(annotation, config=STRICT).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        telling = [e for e in found if not e["type"].endswith(("_type", "_required"))] or found
        return explain(telling[-1], annotation, _metadata(annotation))
    return None


def explain(error: Mapping[str, Any], annotation: Any, metadata: Iterable[Any]) -> str:
    """Return pydantic's finding as ``expected ..., found ...``.

    Args:
        error: one of pydantic's errors.
        annotation: of the value.
        metadata: what holds the value's limits, as pydantic's ``FieldInfo.metadata``.
    """
    kind, found = error["type"], error["input"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    choices = [str(choice) for choice in _choices(annotation)]
    if kind == "literal_error" and isinstance(found, str):
        return (
            f"expected one of {', '.join(choices)}, found {shown(found)}{nearest(found, choices)}"
        )
    if kind == "finite_number":
        return f"{_FINITE}{found}"
    limits = _limits(metadata)
    if limits and not kind.endswith("_type"):
        return f"expected {limits}, found {shown(found)}"
    if kind == "float_type" and isinstance(found, int) and not isinstance(found, bool):
        return f"{_FINITE}{shown(found)}"  # beyond all floats
    return f"expected {_name(annotation)}, found {shown(found)} ({type(found).__name__})"


def beyond_all_use(value: object) -> bool:
    """Return whether a literal holds a number that is not finite or larger than ``LARGEST``."""
    if isinstance(value, list | tuple):
        return any(beyond_all_use(item) for item in value)
    if isinstance(value, dict):
        return any(beyond_all_use(item) for pair in value.items() for item in pair)
    return isinstance(value, int | float) and not abs(value) <= LARGEST


def whole(name: str, value: int, *, at_least: int, at_most: int = MOST) -> int:
    """Return ``value`` if it is a whole number in ``at_least..at_most``.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise UserError(f"{name}: expected a whole number >= {at_least}, found {shown(value)}")
    if value > at_most:
        raise UserError(f"{name}: expected a whole number <= {at_most}, found {shown(value)}")
    return value


def number(
    name: str,
    value: float,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Return ``value`` as a float if it is finite and within the limits.

    Raises:
        UserError: it is not.
    """
    limits = [(">=", at_least), (">", above), ("<", below), ("<=", at_most)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not is_number
        or not abs(value) < math.inf
        or not at_least <= value <= at_most
        or not above < value < below
    ):
        bounds = " and ".join(f"{sign} {limit:g}" for sign, limit in limits if math.isfinite(limit))
        raise UserError(f"{name}: expected a number {bounds}".rstrip() + f", found {shown(value)}")
    return float(value)


def choice(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``.

    Raises:
        UserError: it is not; the message has the nearest option.
    """
    valid = tuple(options)
    if value not in valid:
        raise UserError(
            f"{name}: expected one of {', '.join(valid)}, "
            f"found {shown(value)}{nearest(str(value), valid)}"
        )
    return value


def _is_plain(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_plain(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return all(_is_plain(part) for part in get_args(annotation))
    return origin is Literal or annotation in _SCALARS


def _parts(annotation: Any) -> list[Any]:
    """Return the annotation and, depth first, what it is made of."""
    inner = [] if get_origin(annotation) is Literal else get_args(annotation)
    return [annotation, *(part for each in inner for part in _parts(each))]


def _choices(annotation: Any) -> list[Any]:
    found = [get_args(part) for part in _parts(annotation) if get_origin(part) is Literal]
    return [choice for choices in found for choice in choices]


def _metadata(annotation: Any) -> list[Any]:
    """Return the limits in an annotation, those inside pydantic's ``Field`` taken out of it."""
    return [limit for part in _parts(annotation) for limit in getattr(part, "metadata", [part])]


def _name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_name(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:  # a list in TOML
        return f"a list of {_name(get_args(annotation)[0])}"
    return "None" if annotation in (None, type(None)) else str(annotation.__name__)


def _limits(metadata: Iterable[Any]) -> str:
    """Return limits as words: ``at least 0 and at most 1``."""
    return " and ".join(
        f"{words} {_plain(getattr(limit, sign))}"
        for limit in metadata
        for sign, words in _SIGNS.items()
        if isinstance(getattr(limit, sign, None), int | float)
    )


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"

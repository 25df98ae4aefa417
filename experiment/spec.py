"""Spec strings: ``fedprox(mu=0.01)``, ``my_lab.methods:FedMine(alpha=2)``, ``a + 10*b``.

Run-config values are flat scalars, so a plug-in and its arguments travel as one string. It is
parsed as a Python call whose arguments are literals; nothing in it is ever evaluated.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

from fl2ora.experiment.errors import UserError

_NAME = r"[A-Za-z_][\w-]*"
_SPEC = re.compile(
    rf"^\s*(?:(?P<module>{_NAME}(?:\.{_NAME})*):)?(?P<name>{_NAME})\s*(?P<call>\(.*\))?\s*$",
    re.DOTALL,
)
_EXPONENT = re.compile(r"[\s\d.-]*[\d.][eE]$")


@dataclass(frozen=True)
class Spec:
    """A parsed spec string.

    Attributes:
        module: the module outside the repository, or None for one of ours.
        name: file name of one of ours (hyphens read as underscores), else a class name.
        args: positional literals.
        kwargs: keyword literals.
    """

    module: str | None
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def parse_spec(text: str) -> Spec:
    """Parse one spec string.

    Raises:
        UserError: the text is no spec, or an argument is not a Python literal.
    """
    match = _SPEC.match(text)
    if match is None:
        raise UserError(
            f"{text!r} is not of the form name, name(argument=value) or module:Name(...)"
        )
    module, name = match["module"], match["name"]
    args, kwargs = _literals(match["call"] or "()", text)
    return Spec(module, name if module else name.replace("-", "_"), args, kwargs)


def parse_sum(text: str) -> list[tuple[float, Spec]]:
    """Parse a weighted sum of specs such as ``cross_entropy + 10*dca``.

    Returns:
        ``(weight, spec)`` pairs in order; a term without a number has weight 1.

    Raises:
        UserError: a term is not ``spec`` or ``number*spec``.
    """
    return [_term(term) for term in _split(text)]


def _split(text: str) -> list[str]:
    """Split at the plus signs outside brackets and quotes."""
    terms, depth, quote, escaped, start = [], 0, "", False, 0
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "+" and depth == 0 and not _EXPONENT.match(text[start:position]):
            terms.append(text[start:position])
            start = position + 1
    return [*terms, text[start:]]


def _term(text: str) -> tuple[float, Spec]:
    number, star, rest = text.partition("*")
    if not star or "(" in number:
        return 1.0, parse_spec(text)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(
            f"{text.strip()!r}: expected number*name with a finite number, found {number.strip()!r}"
        )
    return weight, parse_spec(rest)


def _literals(call: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        node = ast.parse(f"f{call}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{text!r}: the brackets do not hold a list of arguments") from None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise UserError(f"{text!r}: expected one call, name(argument=value)")
    args = tuple(_literal(value, text) for value in node.args)
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise UserError(f"{text!r}: ** is not allowed")
        if keyword.arg in kwargs:
            raise UserError(f"{text!r}: argument {keyword.arg!r} is given twice")
        kwargs[keyword.arg] = _literal(keyword.value, text)
    return args, kwargs


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        source = ast.unparse(node)
        raise UserError(
            f"{text!r}: argument {source!r} is not a literal (number, 'text', True, False, None)"
        ) from None

"""Spec strings: ``fedprox(mu=0.01)``, ``my_lab.methods:FedMine(alpha=2)``, ``a + 10*b``.

Run-config values are flat scalars, so a plug-in and its arguments travel as one string. It is
parsed as a Python call whose arguments are literals; nothing in it is ever evaluated.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

from fl2ora.experiment.errors import LONGEST, UserError, shown

MAX_LENGTH = 4000
MAX_DEPTH = 20

_NAME = r"[A-Za-z_][\w-]*"
_SPEC = re.compile(
    rf"^\s*(?:(?P<module>{_NAME}(?:\.{_NAME})*):)?(?P<name>{_NAME})\s*(?P<call>\(.*\))?\s*$",
    re.DOTALL,
)
_EXPONENT = re.compile(r"[\s\d.-]*[\d.][eE]$")
_ESCAPES = re.compile(r"(?:[^\\]|\\[\\'\"])*")
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Spec:
    """A parsed spec string; ``str`` writes it down again.

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

    def __str__(self) -> str:
        """Return the spec as text.

        >>> str(parse_spec("trimmed-mean( 0.1,weighting = 'uniform' )"))
        "trimmed_mean(0.1, weighting='uniform')"
        """
        arguments = [repr(value) for value in self.args]
        arguments += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        prefix = f"{self.module}:" if self.module else ""
        return f"{prefix}{self.name}" + (f"({', '.join(arguments)})" if arguments else "")


def parse_spec(text: str) -> Spec:
    r"""Parse one spec string.

    Raises:
        UserError: the text is no spec, an argument is not a Python literal, or the text is longer,
            deeper or stranger than a spec may be.

    >>> parse_spec("fedprox(mu=0.01)").kwargs
    {'mu': 0.01}
    """
    _check_text(text)
    match = _SPEC.match(text)
    if match is None:
        raise UserError(
            f"{shown(text)} is not of the form name, name(argument=value) or module:Name(...)"
        )
    module, name = match["module"], match["name"]
    args, kwargs = _literals(match["call"] or "()", text)
    return Spec(module, name if module else name.replace("-", "_"), args, kwargs)


def parse_sum(text: str) -> list[tuple[float, Spec]]:
    """Parse a weighted sum of specs such as ``cross_entropy + 10*dca``.

    Returns:
        ``(weight, spec)`` pairs in order; a term without a number has weight 1.

    Raises:
        UserError: a term is not ``spec`` or ``number*spec`` with a number above 0, or stands twice.
    """
    _check_text(text)
    terms: list[tuple[float, Spec]] = []
    for part in split_outside(text, "+"):
        weight, spec = _term(part, text)
        if any(spec == other for _, other in terms):
            raise UserError(f"{shown(text)}: {str(spec)!r} stands there twice")
        terms.append((weight, spec))
    return terms


def parse_list(text: str) -> list[Spec]:
    """Parse a sum of specs without weights such as ``default + early_stop(patience=3)``.

    Raises:
        UserError: a term is no spec, has a weight or stands twice, or ``none`` has company.
    """
    terms = parse_sum(text)
    for weight, spec in terms:
        if weight != 1:
            raise UserError(f"{shown(text)}: {spec.name!r} takes no weight, found {weight:g}")
        if spec.name == "none" and len(terms) > 1:
            raise UserError(f"{shown(text)}: 'none' stands alone")
    return [spec for _, spec in terms]


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise UserError(f"expected at most {MAX_LENGTH} characters, found {len(text)}")
    strange = [char for char in text if not char.isprintable() and char not in "\t\n\r"]
    if strange:
        raise UserError(f"{shown(text)}: expected no control characters, found {strange[0]!r}")


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a sign outside brackets and quotes; a plus within a number is none.

    >>> split_outside("a(x='1;2'); b", ";")
    ["a(x='1;2')", ' b']
    """
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
        elif char == separator and depth == 0 and not _EXPONENT.match(text[start:position]):
            terms.append(text[start:position])
            start = position + 1
    return [*terms, text[start:]]


def _term(term: str, text: str) -> tuple[float, Spec]:
    if not term.strip():
        raise UserError(f"{shown(text)}: expected a name on each side of +")
    number, star, rest = term.partition("*")
    if not star or "(" in number:
        return 1.0, parse_spec(term)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"{shown(term.strip())}: expected number*name with a finite number above 0, "
            f"found {shown(number.strip())}"
        )
    return weight, parse_spec(rest)


def _literals(call: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not _ESCAPES.fullmatch(call):  # Python would read 'C:\\new' as a line break
        raise UserError(
            f"{text[:LONGEST]}: a backslash in a text is written twice ('C:\\\\data'), "
            "or as a slash in a path ('C:/data')"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            node = ast.parse(f"f{call}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{shown(text)}: the brackets do not hold a list of arguments") from None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise UserError(f"{shown(text)}: expected one call, name(argument=value)")
    _check_tree(node, text)
    args = tuple(_literal(value, text) for value in node.args)
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise UserError(f"{shown(text)}: ** is not allowed")
        if keyword.arg in kwargs:
            raise UserError(f"{shown(text)}: argument {keyword.arg!r} is given twice")
        kwargs[keyword.arg] = _literal(keyword.value, text)
    return args, kwargs


def _check_tree(node: ast.AST, text: str) -> None:
    level: list[ast.AST] = [node]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in ast.iter_child_nodes(parent)]
        for part in level:
            value = part.value if isinstance(part, ast.Constant) else ""
            if isinstance(value, str) and not value.isprintable():
                raise UserError(f"{shown(text)}: {shown(value)} holds a tab or a line break")
    if level:
        raise UserError(f"{shown(text)}: nested more deeply than {MAX_DEPTH} levels")


def _literal(node: ast.expr, text: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        value = ...
    if not _is_plain(value):
        source = ast.unparse(node)
        raise UserError(
            f"{shown(text)}: argument {shown(source)} is not a literal "
            "(number, 'text', True, False, None, or a list or dict of these)"
        )
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return isinstance(value, _PLAIN)

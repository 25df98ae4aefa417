"""The tables of keys, written from ``RunConfig``: ``python -m fl2ora.experiment.flower_table``.

One is Flower's, which admits only keys that stand in ``[tool.flwr.app.config]`` of pyproject.toml;
the other is that of docs/configuration.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from fl2ora.experiment.config import RunConfig, Value, key_of
from fl2ora.experiment.fingerprint import code_root
from fl2ora.experiment.texts import (
    ClientsText,
    DeviceText,
    FolderText,
    ListText,
    ModelText,
    NameText,
    SpecText,
    SumText,
)

HEAD = "[tool.flwr.app.config]"
_BLOCK = re.compile(rf"^{re.escape(HEAD)}\n.*?(?=^\[|\Z)", re.DOTALL | re.MULTILINE)
_MARKS = ("<!-- keys: make config -->\n", "<!-- end of keys -->\n")
_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {bool: "true or false", int: "whole number", float: "number"}
_TEXTS = {
    SpecText: "spec", SumText: "sum of specs", ListText: "list", ModelText: "name or folder",
    DeviceText: "device", FolderText: "absolute path", NameText: "name of a folder",
    ClientsText: "names of clients",
}  # fmt: skip


def table() -> str:
    """Return the table: a heading for each group of keys, each key below its description."""
    lines = [HEAD]
    for name, field in RunConfig.model_fields.items():
        if field.title:  # of the first key of a group
            lines += ["", f"## {field.title}"]
        lines += [f"# {field.description}", f"{key_of(name)} = {toml_value(field.default)}"]
    return "\n".join(lines).replace("\n\n", "\n", 1) + "\n"


def toml_value(value: Value) -> str:
    r"""Return a value as TOML writes it.

    >>> [toml_value(value) for value in (True, 5, 0.0005, "say 'a'")]
    ['true', '5', '0.0005', '"say \'a\'"']
    """
    return repr(value) if type(value) in (int, float) else json.dumps(value, ensure_ascii=False)


def rewritten(pyproject: str) -> str:
    """Return the text of a pyproject.toml with the table in its place.

    Raises:
        ValueError: it has no such table.
    """
    text, count = _BLOCK.subn(lambda _: f"{table()}\n", pyproject)
    if count != 1:
        raise ValueError(f"pyproject.toml: expected one {HEAD}, found {count}")
    return text


def markdown() -> str:
    """Return the documentation's tables: one for each group of keys."""
    lines: list[str] = []
    for name, field in RunConfig.model_fields.items():
        if field.title:  # of the first key of a group
            lines += ["", f"## {field.title}", ""]
            lines += ["| key | default | may be | what it is |", "| --- | --- | --- | --- |"]
        default, allowed = toml_value(field.default), _allowed(field.annotation, field.metadata)
        lines.append(f"| `{key_of(name)}` | `{default}` | {allowed} | {field.description} |")
    return "\n".join([*lines, "", ""])


def rewritten_page(page: str) -> str:
    """Return the text of docs/configuration.md with the tables in their place.

    Raises:
        ValueError: it does not say where they go.
    """
    head, start, rest = page.partition(_MARKS[0])
    _, end, tail = rest.partition(_MARKS[1])
    if not start or not end:
        raise ValueError(f"docs/configuration.md: expected {_MARKS[0]!r} and {_MARKS[1]!r}")
    return f"{head}{start}{markdown()}{end}{tail}"


def _allowed(annotation: Any, metadata: Sequence[Any]) -> str:
    """Return in words what a key may be."""
    if annotation is str:
        return next(words for kind, words in _TEXTS.items() if get_args(kind)[1] == metadata[0])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    limits = [
        f"{word} {getattr(limit, sign):,}"
        for limit in metadata
        for sign, word in _SIGNS.items()
        if getattr(limit, sign, None) is not None
    ]
    return " ".join([_TYPES[annotation], " and ".join(limits)]).strip()


if __name__ == "__main__":
    for name, rewrite in (("pyproject.toml", rewritten), ("docs/configuration.md", rewritten_page)):
        path = code_root() / name
        path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")

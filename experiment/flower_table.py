"""Flower's table of keys, written from ``RunConfig``: ``python -m fl2ora.experiment.flower_table``.

Flower admits only keys that stand in ``[tool.flwr.app.config]`` of pyproject.toml.
"""

from __future__ import annotations

import json
import re

from fl2ora.experiment.config import RunConfig, Value, key_of
from fl2ora.experiment.fingerprint import code_root

HEAD = "[tool.flwr.app.config]"
_BLOCK = re.compile(rf"^{re.escape(HEAD)}\n.*?(?=^\[|\Z)", re.DOTALL | re.MULTILINE)


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


if __name__ == "__main__":
    path = code_root() / "pyproject.toml"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")

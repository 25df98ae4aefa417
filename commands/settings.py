"""From a TOML file and ``--set key=value`` to a run config.

Relative paths are taken from the current directory, in a file as on the command line, and made
absolute here, because every process of a run has a directory of its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import ConfigError, UserError, shown
from fl2ora.experiment.paths import with_absolute_settings
from fl2ora.experiment.toml_file import read_toml


def read_settings(file: Path | None, assignments: Iterable[str]) -> dict[str, Value]:
    """Return flat run-config keys; later assignments win over earlier ones and over the file.

    Values of text keys are taken as they stand, but for relative paths in them; all others are
    read as TOML.

    Args:
        file: TOML with flat keys, or a table ``[tool.flwr.app.config]`` with them.
        assignments: texts ``key=value``.

    Raises:
        UserError: the file is missing or no flat TOML.
        ConfigError: assignments without ``=``.
    """
    values = _read_file(file) if file is not None else {}
    text_keys = {key for key, value in RunConfig().flat().items() if isinstance(value, str)}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(f"--set {shown(assignment)}: expected key=value")
        else:
            values[key] = _unquoted(text) if key in text_keys else _literal(text)
    if problems:
        raise ConfigError(problems)
    return with_absolute_settings(values)


def _read_file(file: Path) -> dict[str, Value]:
    content = _flat(read_toml(file))
    nested = [
        key for key, value in content.items() if not isinstance(value, bool | int | float | str)
    ]
    if nested:
        raise UserError(
            f"{file}: expected flat keys with numbers, texts or true/false; "
            f"found tables or lists under {', '.join(nested)}"
        )
    return content


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Return the keys below Flower's heading, where the file has it and nothing but tables."""
    try:
        return dict(content["tool"]["flwr"]["app"]["config"])
    except (KeyError, TypeError, ValueError):
        return content


def _unquoted(text: str) -> str:
    text = text.strip()
    quoted = (
        len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]
    )
    return text[1:-1] if quoted else text


def _literal(text: str) -> Value:
    """Read a TOML value; what is none stays text, and the config names the type it wants."""
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    value = content["value"]
    whole = len(content) == 1 and isinstance(value, int | float | str)
    return value if whole else text.strip()

"""From a TOML file and ``--set key=value`` to a run config."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from fl2ora.experiment.config import RunConfig, Value, key_of
from fl2ora.experiment.errors import ConfigError, UserError


def read_settings(file: Path | None, assignments: Iterable[str]) -> dict[str, Value]:
    """Return flat run-config keys; later assignments win over earlier ones and over the file.

    Values of text keys are taken as they stand; all others are read as TOML.

    Raises:
        UserError: the file is missing or no flat TOML.
        ConfigError: assignments without ``=``.
    """
    values = _read_file(file) if file is not None else {}
    text_keys = {key_of(f.name) for f in fields(RunConfig) if isinstance(f.default, str)}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            problems.append(f"--set {assignment!r}: expected key=value")
        else:
            values[key] = _unquoted(text) if key in text_keys else _literal(text)
    if problems:
        raise ConfigError(problems)
    return values


def _read_file(file: Path) -> dict[str, Value]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a TOML file: {error}") from None
    nested = [
        key for key, value in content.items() if not isinstance(value, bool | int | float | str)
    ]
    if nested:
        raise UserError(
            f"{file}: expected flat keys with numbers, texts or true/false; "
            f"found tables or lists under {', '.join(nested)}"
        )
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
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    return value if isinstance(value, int | float | str) else text.strip()

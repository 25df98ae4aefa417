"""Paths a user gives: which can be one, and which arguments of a plug-in hold one.

Every process of a run has a working directory of its own, so a relative path means something on
the command line alone, and is made absolute there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.parameters import parameter_names
from fl2ora.experiment.spec import Spec, parse_sum, split_outside

NAMES = ("folder", "path", "file", "dir", "root", "start")
_FOLDERS = ("cache-dir", "output-dir", "resume")  # keys of the run config
_MARKS = ("./", "../")
_HOME = re.compile(r"~[\w.-]*/")
_PART, _WHOLE = 255, 4096  # bytes a file system takes


def user_path(text: str) -> Path:
    """Return a path with ``~`` replaced.

    Raises:
        UserError: no file system can hold the path, or the home it names is unknown.
    """
    if not text.isprintable():
        raise UserError(f"expected a path without control characters, found {shown(text)}")
    sizes = [len(part.encode("utf-8", "replace")) for part in Path(text).parts]
    if max(sizes, default=0) > _PART or sum(sizes) > _WHOLE:
        raise UserError(
            f"expected a path of at most {_WHOLE} bytes whose names have at most {_PART}, "
            f"found {shown(text)}"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{shown(text)}: the home folder of that user is unknown") from None


def user_file(name: str, text: str) -> Path | None:
    """Return the path of a file that an argument names; None for an empty text.

    Raises:
        UserError: there is no such file; the message begins with ``name``, the argument's.
    """
    if not text:
        return None
    path = user_path(text)
    if not path.is_file():
        raise UserError(f"{name}: expected a file, found {what_is_at(path)}: {path}")
    return path


def what_is_at(path: Path) -> str:
    """Return ``a folder``, ``a file`` or ``nothing there``."""
    return "a folder" if path.is_dir() else "a file" if path.exists() else "nothing there"


def is_path(name: str, value: object) -> bool:
    """Return whether an argument holds a path: by its name, or because its text begins as one.

    >>> is_path("start", "~"), is_path("init", "~"), is_path("init", "~/words")
    (True, False, True)
    """
    if not isinstance(value, str) or not value:
        return False
    named = name in NAMES or name.endswith(tuple(f"_{end}" for end in NAMES))
    return named or value.startswith(_MARKS) or bool(_HOME.match(value))


def check_paths(spec: Spec) -> None:
    """Refuse impossible paths among a plug-in's arguments.

    Raises:
        UserError: naming plug-in and argument.
    """
    for name, value in _arguments(spec):
        if is_path(name, value):
            try:
                user_path(value)
            except UserError as error:
                where = f"{spec.name}: {name}" if name else spec.name
                raise UserError(f"{where}: {error}") from None


def made_absolute(text: str) -> str:
    """Return a path as an absolute one, taken from the current directory.

    >>> made_absolute("/data/../images")
    '/images'
    """
    return os.path.abspath(user_path(text))


def with_absolute_paths(text: str) -> str:
    """Return a spec or a sum of specs with absolute paths in its arguments, nested specs too.

    Made absolute is what begins with ``./``, ``../``, ``~/`` or ``~name/``, and what is called
    ``folder``, ``path``, ``file``, ``dir``, ``root`` or ``start`` (or ends so) and exists in the
    current directory; an argument without a name is called what the constructor calls it. Text
    without such arguments comes back as it is.
    """
    try:
        terms = parse_sum(text)
        moved = [(weight, _moved(spec)) for weight, spec in terms]
    except UserError:  # is for the configuration to report
        return text
    if moved == terms:
        return text
    return " + ".join(f"{spec}" if w == 1 else f"{w!r}*{spec}" for w, spec in moved)


def with_absolute_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return run-config keys with absolute paths in their texts; a ``Path`` becomes a text.

    Folders are made absolute, a model where it is one, and arguments of specs as
    ``with_absolute_paths`` does it.
    """
    texts = {key: str(v) if isinstance(v, Path) else v for key, v in settings.items()}
    return {k: _absolute_setting(k, v) if isinstance(v, str) else v for k, v in texts.items()}


def _absolute_setting(key: str, text: str) -> str:
    if key == "model":
        is_folder = text.startswith((*_MARKS, "~")) or (text != "embedded" and _is_folder(text))
        return _absolute(text) if is_folder else text
    return _absolute(text) if key in _FOLDERS and text else with_absolute_paths(text)


def _is_folder(text: str) -> bool:
    try:
        return bool(text) and Path(text).is_dir()
    except (OSError, ValueError):
        return False


def _absolute(text: str) -> str:
    """Return the path made absolute; what cannot be one is left for the config to report."""
    try:
        return made_absolute(text)
    except UserError:
        return text


def _moved(spec: Spec) -> Spec:
    args = tuple(_argument(_name_of(spec, n), value) for n, value in enumerate(spec.args))
    return replace(spec, args=args, kwargs={k: _argument(k, v) for k, v in spec.kwargs.items()})


def _name_of(spec: Spec, position: int) -> str:
    """Return what the constructor calls an argument without a name, where that makes it a path.

    The class is looked up, and imported, for texts that exist in the current directory alone.
    """
    value = spec.args[position]
    if not isinstance(value, str) or is_path("", value) or not _exists(value):
        return ""
    names = [known[position] for known in parameter_names(spec) if position < len(known)]
    return next((name for name in names if is_path(name, value)), "")


def _exists(text: str) -> bool:
    try:
        return bool(text) and user_path(text).exists()
    except (OSError, ValueError):
        return False


def _argument(name: str, value: Any) -> Any:
    begins = is_path("", value)
    if begins or (is_path(name, value) and (value.startswith("~") or user_path(value).exists())):
        return made_absolute(value)
    if isinstance(value, str) and "(" in value:
        return ";".join(with_absolute_paths(part) for part in split_outside(value, ";"))
    return value


def _arguments(spec: Spec) -> list[tuple[str, Any]]:
    return [("", value) for value in spec.args] + list(spec.kwargs.items())

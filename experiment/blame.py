"""Errors inside a plug-in, told as its author needs them: whose code, where, and what."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fl2ora.experiment.errors import UserError


@contextmanager
def blaming(plugin: object) -> Iterator[None]:
    """Turn whatever a plug-in raises into an error that names it, the file and the line.

    Raises:
        UserError: the plug-in raised something else; that is its cause. A ``UserError`` of its own
            passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cls = type(plugin)
        place = _place(cls, error)
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserError(f"{cls.__module__}:{cls.__name__}: {what} ({place})") from error


def _place(cls: type, error: Exception) -> str:
    """Return file and line of the innermost frame in the plug-in's file, else of the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        file = inspect.getfile(cls)
    except (TypeError, OSError):
        file = ""
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"

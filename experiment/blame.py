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


@contextmanager
def blaming_whoever(*plugins: object) -> Iterator[None]:
    """Blame the plug-in from outside in whose file the error arose; else it passes unchanged.

    For code that several plug-ins have a hand in, and ours. The innermost such file counts.

    Raises:
        UserError: see ``blaming``.
    """
    try:
        yield
    except Exception as error:
        outside = [p for p in plugins if not type(p).__module__.startswith("fl2ora.")]
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            code = frame.f_code
            there = [p for p in outside if _file(type(p)) == code.co_filename]
            # Of several in one file, the one in whose method it was.
            there.sort(key=lambda p: type(p).__name__ != code.co_qualname.partition(".")[0])
            if there:
                with blaming(there[0]):
                    raise
        raise


def innermost(error: Exception, *plugins: object) -> object:
    """Return the plug-in in whose code, or its base classes', an error arose; else the last.

    For code in which one plug-in calls another.
    """
    classes = [[cls for cls in type(p).__mro__ if cls is not object] for p in plugins]
    files = [{_file(cls) for cls in own} for own in classes]
    names = [{cls.__name__ for cls in own} for own in classes]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        there = [i for i in range(len(plugins)) if code.co_filename in files[i]]
        # Of several in one file, the one in whose method it was.
        there.sort(key=lambda i: code.co_qualname.partition(".")[0] not in names[i])
        if there:
            return plugins[there[0]]
    return plugins[-1]


def _place(cls: type, error: Exception) -> str:
    """Return file and line of the innermost frame in the plug-in's file, else of the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == _file(cls)]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _file(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (TypeError, OSError):  # built in, or made where there is no file
        return "?"

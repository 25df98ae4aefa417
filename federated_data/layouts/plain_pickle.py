"""Reading pickles of plain values and byte arrays without executing anything of them.

CIFAR's python archives are pickles, and loading a pickle runs whatever it names. Here its opcodes
are parsed (``pickletools.genops``) and interpreted by a machine that knows the few that such data
needs: numbers, texts, lists, tuples, dicts, and numpy arrays of uint8, which are rebuilt from their
bytes. Every other opcode, and every other name, is refused; nothing is imported or called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError, shown

_RECONSTRUCT = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
_ARRAY, _DTYPE, _ENCODE = ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")
_NAMES = {*_RECONSTRUCT, _ARRAY, _DTYPE, _ENCODE}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_OLD_TEXTS = {"SHORT_BINSTRING", "BINSTRING"}  # Python 2's str, which are bytes
_NUMBERS = {"BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GET = {"BINGET", "LONG_BINGET", "GET"}
_PUT = {"BINPUT", "LONG_BINPUT", "PUT"}
_IGNORED = {"PROTO", "FRAME"}


class _RefusedError(ValueError):
    """What a pickle of plain values cannot have."""


@dataclass
class _Name:
    """A name that a pickle would import."""

    path: tuple[str, str]


@dataclass
class _Rebuilt:
    """A numpy array or dtype that is being put together."""

    kind: tuple[str, str]
    arguments: tuple[Any, ...]
    state: tuple[Any, ...] = ()


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise _RefusedError("a mark that is not there")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise _RefusedError("a value that is not there")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items


def read_plain_pickle(content: bytes, path: Path) -> Any:
    """Return the plain value in a pickle; texts of Python 2 come as ``bytes``.

    Args:
        content: of the file.
        path: its name, for errors.

    Raises:
        UserError: it is damaged, or it holds anything but numbers, texts, bytes, lists, tuples,
            dicts and arrays of uint8.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                (value,) = machine.pop(1)
                return _plain(value)
            _step(machine, opcode.name, argument)
    except (_RefusedError, TypeError) as error:
        raise UserError(
            f"{path}: expected a pickle of numbers, texts, lists, dicts and byte arrays alone, "
            f"found {error}; nothing of it was executed"
        ) from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: expected a whole pickle, found it damaged: {error}") from None
    raise UserError(f"{path}: expected a whole pickle, found no end")


def _step(machine: _Machine, name: str, argument: Any) -> None:
    stack = machine.stack
    if name in _IGNORED:
        return
    if name in _TEXTS or name in _BYTES or name in _NUMBERS:
        stack.append(argument)
    elif name in _OLD_TEXTS:
        stack.append(argument.encode("latin-1"))
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name in _PUT:
        machine.memo[argument] = _top(machine)
    elif name == "MEMOIZE":
        machine.memo[len(machine.memo)] = _top(machine)
    elif name in _GET:
        if argument not in machine.memo:
            raise _RefusedError("a value that was not kept")
        stack.append(machine.memo[argument])
    elif name == "MARK":
        machine.marks.append(len(stack))
    else:
        _combine(machine, name, argument)


def _combine(machine: _Machine, name: str, argument: Any) -> None:
    """Make one value of several on the stack."""
    stack = machine.stack
    if name in _TUPLES:
        stack.append(machine.pop(_TUPLES[name]))
    elif name == "TUPLE":
        stack.append(tuple(machine.since_mark()))
    elif name in ("LIST", "DICT"):
        items = machine.since_mark()
        stack.append(items if name == "LIST" else _pairs(items))
    elif name in ("APPEND", "APPENDS"):
        items = [*machine.pop(1)] if name == "APPEND" else machine.since_mark()
        _top(machine, list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [*machine.pop(2)] if name == "SETITEM" else machine.since_mark()
        _top(machine, dict).update(_pairs(items))
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        module, attribute = argument.split(" ", 1) if name == "GLOBAL" else machine.pop(2)
        if (module, attribute) not in _NAMES:
            raise _RefusedError(f"the name {shown(f'{module}.{attribute}')}")
        stack.append(_Name((module, attribute)))
    elif name == "REDUCE":
        stack.append(_reduced(*machine.pop(2)))
    elif name == "BUILD":
        (state,) = machine.pop(1)
        _top(machine, _Rebuilt).state = state
    else:
        raise _RefusedError(f"the instruction {name}")


def _top(machine: _Machine, kind: type = object) -> Any:
    if not machine.stack or not isinstance(machine.stack[-1], kind):
        raise _RefusedError(f"an instruction for a {kind.__name__} without one")
    return machine.stack[-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or any(not isinstance(key, str | bytes | int) for key in items[::2]):
        raise _RefusedError("a dict whose keys are no texts or numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _reduced(name: Any, arguments: Any) -> Any:
    """Return what calling an admitted name stands for, without calling it."""
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise _RefusedError("a call of something else than a name")
    if name.path == _ENCODE:  # how Python 3 writes bytes down in Python 2's format
        text, coding = arguments
        if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
            raise _RefusedError("a text in another coding than Latin-1")
        return text.encode("latin-1")
    if name.path == _ARRAY:
        raise _RefusedError("a call of numpy.ndarray")
    return _Rebuilt(_DTYPE if name.path == _DTYPE else _ARRAY, arguments)


def _plain(value: Any) -> Any:
    """Return a value with arrays in place of their parts; only whole dicts and lists hold any."""
    if isinstance(value, dict):
        return {key: _array_of(item) for key, item in value.items()}
    return _array_of(value)


def _array_of(value: Any) -> Any:
    if isinstance(value, _Name):
        raise _RefusedError(f"the name {'.'.join(value.path)} as a value")
    return _array(value) if isinstance(value, _Rebuilt) else value


def _array(rebuilt: _Rebuilt) -> NDArray[np.uint8]:
    """Return an array of the state ``(version, shape, dtype, Fortran order, bytes)``."""
    state = rebuilt.state
    if rebuilt.kind != _ARRAY or not isinstance(state, tuple) or len(state) != 5:
        raise _RefusedError("an array that is not finished")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, _Rebuilt) or not dtype.arguments or dtype.kind != _DTYPE:
        raise _RefusedError("an array without a type")
    if dtype.arguments[0] not in ("u1", b"u1", "|u1", b"|u1"):
        raise _RefusedError(f"an array of {shown(dtype.arguments[0])} in place of uint8")
    sizes = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not sizes or not isinstance(content, bytes) or fortran:
        raise _RefusedError("an array whose shape or bytes are none")
    count = int(np.prod([int(n) for n in shape], dtype=object))
    if count != len(content):
        raise _RefusedError(f"an array of {len(content)} bytes for shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)

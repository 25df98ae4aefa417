"""Turning a spec string into an object: a file of ours by its name, or any class by its path."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from fl2ora.experiment.arguments import LARGEST, beyond_all_use, problem_with
from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.experiment.spec import Spec, parse_spec

T = TypeVar("T")
Base = Callable[..., T]  # a class; type[T] would not admit an abstract one


def available(base: type) -> list[str]:
    """Return the names a spec may use: those of files of the base's folder that define one."""
    files = _files(_folder(base))
    return [name for name in sorted(files) if _only_class(files[name], base) is not None]


def load(spec: str | Spec, base: Base[T]) -> T:
    """Construct the plug-in that ``spec`` names.

    Args:
        spec: ``name(...)`` for a file ``name.py`` in the folder of ``base`` or below it,
            ``module:Class(...)`` for anything importable.
        base: what the class must derive from.

    Raises:
        UserError: unknown name, wrong base, or arguments that do not fit; the message lists the
            valid names or arguments and the nearest match. What the constructor itself raises is
            passed on: a ``ValueError`` as its message, of code outside the repository and of any
            other kind with file and line.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    cls = find(parsed, base)
    check_arguments(cls, parsed)
    try:
        return cls(*parsed.args, **parsed.kwargs)
    except UserError as error:
        raise UserError(f"{parsed.name}: {error}") from error
    except Exception as error:
        ours = parsed.module is None and isinstance(error, ValueError)
        what = str(error) if ours else _with_place(error, cls)
        raise UserError(f"{parsed.name}: {what}") from error


def find(spec: Spec, base: Base[T]) -> type[T]:
    """Return the class that ``spec`` names, without constructing it."""
    assert isinstance(base, type)
    if spec.module is not None:
        return _external(spec.module, spec.name, base)
    module = _files(_folder(base)).get(spec.name)
    cls: type[T] | None = None if module is None else _only_class(module, base)
    if cls is None:
        names = available(base)
        where = _folder(base).partition(".")[2].replace(".", "/")
        raise UserError(
            f"{where} has no {spec.name!r} (valid: {listed(names)}){nearest(spec.name, names)}"
        )
    return cls


def check_arguments(cls: type, spec: Spec) -> None:
    """Bind the arguments to the constructor's signature and check their types and limits.

    Limits are those of annotations such as ``Annotated[int, Field(ge=1, le=4096)]``; no number may
    be larger than ``LARGEST``.

    Raises:
        UserError: an argument is unknown, missing, of another type, or out of its limits.
    """
    signature = _signature(cls)
    try:
        bound = signature.bind(*spec.args, **spec.kwargs)
    except TypeError as error:
        valid = list(signature.parameters)
        unknown = [name for name in spec.kwargs if name not in valid]
        hint = nearest(unknown[0], valid) if unknown else ""
        raise UserError(f"{spec.name}: {error} (valid arguments: {listed(valid)}){hint}") from None
    for name, value in _named_values(bound):
        problem = problem_with(signature.parameters[name].annotation, value)
        if problem is None and beyond_all_use(value):
            problem = f"expected numbers of at most {LARGEST} in size, found {shown(value)}"
        if problem:
            raise UserError(f"{spec.name}: {name}: {problem}")


def _signature(cls: type) -> inspect.Signature:
    """Return the constructor's signature, with types where they can be told."""
    try:
        return inspect.signature(cls, eval_str=True)
    except NameError:  # of a class whose types are imported for type checkers only
        return inspect.signature(cls)


def _named_values(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    """Return parameter names with their values, each value of ``*args`` and ``**kwargs`` alone."""
    kinds = {name: bound.signature.parameters[name].kind for name in bound.arguments}
    pairs: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
            pairs += [(name, item) for item in value]
        elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
            pairs += [(name, item) for item in value.values()]
        else:
            pairs.append((name, value))
    return pairs


def _may_offer(name: str) -> bool:
    return name != "base" and not name.startswith("_")


def _folder(base: type) -> str:
    """Return the package whose files are looked through: the one that defines ``base``."""
    return base.__module__.rpartition(".")[0]


def _files(package: str) -> dict[str, str]:
    """Return the full names of the modules in a package and its sub-packages, by their last."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        full = f"{package}.{info.name}"
        if info.ispkg:
            found |= _files(full)
        elif _may_offer(info.name):
            found[info.name] = full
    return found


def _only_class(module_name: str, base: type[T]) -> type[T] | None:
    """Return the one public, concrete ``base`` a module defines, if it defines just one."""
    module = _imported(module_name)
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]
    return found[0] if len(found) == 1 else None


def _external(module_name: str, class_name: str, base: type[T]) -> type[T]:
    try:
        module = _imported(module_name)
    except UserError as error:
        raise UserError(f"{module_name}:{class_name}: {error}") from error
    cls = getattr(module, class_name, None)
    if not inspect.isclass(cls):
        names = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise UserError(f"{module_name} has no class {class_name!r}{nearest(class_name, names)}")
    if not issubclass(cls, base):
        raise UserError(f"{module_name}:{class_name} is not a {base.__name__}")
    if inspect.isabstract(cls):
        lacking = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise UserError(f"{module_name}:{class_name} is abstract: it lacks {lacking}")
    return cls


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"cannot import {name!r}: {error}") from error  # there is no such file
        raise UserError(f"cannot import {name!r}: {_with_place(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import {name!r}: {_with_place(error)}") from error


def _with_place(error: BaseException, cls: type | None = None) -> str:
    """Return an error with its kind and the line it came from, of the file of ``cls`` if it can."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) if cls else None
    raised = traceback.extract_tb(error.__traceback__)
    frames = [f for f in raised if f.filename != __file__ and not f.filename.startswith("<")]
    own = [frame for frame in frames if frame.filename == file] or frames
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"

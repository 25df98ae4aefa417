"""What arguments of a spec that have no name of their own are called, by the constructor's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from fl2ora.experiment.fingerprint import ROOMS, code_root
from fl2ora.experiment.spec import Spec


def parameter_names(spec: Spec) -> list[tuple[str, ...]]:
    """Return the names of the constructor's parameters in order, of each class the spec may mean.

    A name of ours may mean several files where it is not known of what kind it is. What cannot be
    imported has no names: that is for whoever loads it to report.

    >>> parameter_names(Spec(None, "folder", (), {}))[0][:2]
    ('path', 'table_file')
    """
    names = []
    for module_name, class_name in _places(spec):
        try:
            module = importlib.import_module(module_name)
            found = _classes(module) if class_name is None else [getattr(module, class_name)]
            names += [tuple(inspect.signature(cls).parameters) for cls in found]
        except (Exception, SystemExit):  # somebody else's code
            continue
    return names


def _places(spec: Spec) -> Iterator[tuple[str, str | None]]:
    """Yield modules and the class in them; None: the one they define."""
    if spec.module is not None:
        yield spec.module, spec.name
        return
    root = code_root()
    for room in ROOMS:
        for path in sorted((root / room).rglob(f"{spec.name}.py")):
            yield ".".join(("fl2ora", *path.relative_to(root).with_suffix("").parts)), None


def _classes(module: ModuleType) -> list[type]:
    return [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]

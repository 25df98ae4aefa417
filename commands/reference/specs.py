"""One page for each kind of plug-in: every spec, its arguments and its defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.optimisers.base import Optimiser
from fl2ora.clip_tuning.schedules.base import Schedule
from fl2ora.commands.reference.docstrings import arguments_of, text_of
from fl2ora.experiment.plugins import available, find
from fl2ora.experiment.spec import Spec
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.federated_data.protocols.base import Protocol
from fl2ora.server_app.callbacks.base import Callback
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.compression.base import Compression

WRITTEN = "<!-- written from the code: make config -->\n"


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in.

    Attributes:
        title: of its page, in the plural; the page's file is called so, too.
        base: what its classes derive from.
        where: what names one, a key of the run config as a rule.
        explained: the page of docs, and its section, that tells about them.
    """

    title: str
    base: Callable[..., object]  # a class; type[object] would not admit an abstract one
    where: str
    explained: str

    @property
    def file(self) -> str:
        """The name of its page in ``docs/reference``."""
        return f"{self.title.lower().replace(' ', '-')}.md"

    def classes(self) -> dict[str, type]:
        """Return all there are, by the names that specs use."""
        assert isinstance(self.base, type)
        names = available(self.base)
        return {name: find(Spec(None, name, (), {}), self.base) for name in names}


KINDS = (
    Kind("Tuning methods", TuningMethod, "the key `method`", "tuning.md"),
    Kind("Losses", Loss, "the key `loss`; several are joined by `+`", "losses.md"),
    Kind("Optimisers", Optimiser, "the key `optimiser`", "training.md#optimisers"),
    Kind("Schedules", Schedule, "the key `schedule`", "training.md#schedules"),
    Kind("Strategies", Strategy, "the key `strategy`", "strategies.md"),
    Kind("Attacks", Attack, "the argument `attack` of `attacked`", "strategies.md#attacks"),
    Kind("Compressions", Compression, "the key `compression`", "strategies.md#compression"),
    Kind("Callbacks", Callback, "the key `callbacks`; several are joined by `+`", "callbacks.md"),
    Kind("Calibrators", Calibrator, "the key `calibrator`", "calibrators.md"),
    Kind("Data sets", Dataset, "the key `dataset`", "data.md#datasets"),
    Kind("Partitions", Partitioner, "the key `partition`", "data.md#partitions"),
    Kind("Protocols", Protocol, "the key `protocol`", "protocols.md"),
)


def spec_of(name: str, cls: type) -> str:
    """Return a spec with all defaults, and ``...`` where an argument has none.

    >>> from fl2ora.strategies.averaging.fedprox import FedProx
    >>> spec_of("fedprox", FedProx)
    "fedprox(mu=0.1, weighting='examples')"
    """
    parameters = inspect.signature(cls).parameters.values()
    arguments = [f"{p.name}={_default(p) or '...'}" for p in parameters]
    return f"{name}({', '.join(arguments)})" if arguments else name


def overview() -> str:
    """Return the page that lists all kinds and all names."""
    lines = [WRITTEN, "# Plug-ins", ""]
    lines += [
        "All plug-ins there are. A run names one by a [spec](../configuration.md): its name and, "
        "in brackets, arguments that differ from their defaults, such as `fedprox(mu=0.01)`. "
        "A class of yours is named `my_lab.methods:Mine(alpha=2)`: see "
        "[extending fl2ora](../extending.md)."
    ]
    for kind in KINDS:
        lines += ["", f"## {kind.title}", "", f"Named by {kind.where}.", ""]
        for name, cls in kind.classes().items():
            lines.append(f"- [`{name}`]({kind.file}#{name}): {_title(cls)[0]}")
    return "\n".join([*lines, ""])


def page(kind: Kind) -> str:
    """Return the page of one kind."""
    lines = [WRITTEN, f"# {kind.title}", ""]
    lines.append(
        f"They are named by {kind.where}. Below each name stands the spec with all its defaults; "
        "a value must be given where it has `...`. "
        f"[How to choose, and what was measured](../{kind.explained})."
    )
    for name, cls in kind.classes().items():
        head, more = _title(cls)
        own = text_of(vars(cls)["__doc__"])
        lines += ["", f"## {name}", "", "```text", spec_of(name, cls), "```"]
        lines += ["", f"**{head}**", "", own, *(["", more] if more else [])]
        lines += ["", *_arguments(cls)] if inspect.signature(cls).parameters else []
    return "\n".join([*lines, ""])


def _title(cls: type) -> tuple[str, str]:
    """Return the first line of a class's file and what the file says beyond it."""
    head, _, more = text_of(inspect.getdoc(inspect.getmodule(cls))).partition("\n\n")
    return head, more


def _arguments(cls: type) -> list[str]:
    """Return a line for each argument.

    Raises:
        ValueError: a docstring says nothing of one.
    """
    said = arguments_of(cls)
    lines = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name not in said:
            raise ValueError(f"{cls.__name__}: expected {parameter.name} under Args:, found none")
        default = _default(parameter)
        value = f" = `{default}`" if default else ""
        lines.append(f"- `{parameter.name}`{value}: {said[parameter.name]}")
    return lines


def _default(parameter: inspect.Parameter) -> str:
    value: Any = parameter.default
    return "" if value is inspect.Parameter.empty else repr(value)

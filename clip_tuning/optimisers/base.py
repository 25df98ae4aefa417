"""The optimiser of local training: a spec string in, a fresh ``torch.optim`` optimiser out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fl2ora.experiment.errors import UserError, listed, nearest
from fl2ora.experiment.plugins import find, load
from fl2ora.experiment.spec import Spec, parse_spec


class Optimiser(ABC):
    """What moves the parameters; constructor arguments are what a spec string may set.

    The learning rate is no argument: it is a key of the run, and a schedule changes it.
    """

    @abstractmethod
    def make(
        self, parameters: Sequence[nn.Parameter], learning_rate: float
    ) -> torch.optim.Optimizer:
        """Return a torch optimiser that has not seen a step.

        Args:
            parameters: at least one.
            learning_rate: of the first step, at least 0.
        """


class FromTorch(Optimiser):
    """Any other optimiser of torch's kind, such as ``torch.optim:RMSprop(alpha=0.9)``.

    Args:
        cls: a ``torch.optim.Optimizer`` whose step takes no closure.
        arguments: of its constructor, without ``params`` and ``lr``.

    Raises:
        UserError: it wants a closure, or has no such arguments.
    """

    def __init__(
        self, cls: type[torch.optim.Optimizer], arguments: Mapping[str, Any] | None = None
    ) -> None:
        self._cls = cls
        self._arguments = dict(arguments or {})
        name = cls.__name__
        closure = inspect.signature(cls.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UserError(f"{name}: expected an optimiser that steps without a closure")
        valid = inspect.signature(cls).parameters.keys() - {"params", "lr"}
        if "lr" in self._arguments:
            raise UserError(f"{name}: lr: expected the key learning-rate instead")
        for unknown in sorted(self._arguments.keys() - valid):
            raise UserError(
                f"{name}: no argument {unknown!r} (valid arguments: {listed(valid)})"
                f"{nearest(unknown, valid)}"
            )
        self.make([nn.Parameter(torch.zeros(2, 2))], 0.1)  # its own checks, now rather than later

    def make(
        self, parameters: Sequence[nn.Parameter], learning_rate: float
    ) -> torch.optim.Optimizer:
        """Construct it; see ``Optimiser.make``.

        Raises:
            UserError: it refuses its arguments.
        """
        try:
            return self._cls(list(parameters), lr=learning_rate, **self._arguments)  # type: ignore[call-arg]
        except (TypeError, ValueError, LookupError, RuntimeError) as error:
            raise UserError(f"{self._cls.__name__}: {error}") from error


def load_optimiser(text: str) -> Optimiser:
    """Return the optimiser that a spec string describes.

    >>> from fl2ora.clip_tuning.optimisers.base import load_optimiser
    >>> weights = [nn.Parameter(torch.zeros(3))]
    >>> load_optimiser("sgd(momentum=0.5)").make(weights, 0.1).defaults["momentum"]
    0.5
    >>> load_optimiser("torch.optim:RMSprop(alpha=0.5)").make(weights, 0.1).defaults["alpha"]
    0.5

    Args:
        text: ``name(...)`` of a file beside this one, or ``module:Class(...)`` of any
            ``torch.optim.Optimizer``, its arguments by name.

    Raises:
        UserError: there is none, its arguments do not fit, or ``lr`` is among them.
    """
    spec = parse_spec(text)
    if spec.module is None:
        return load(_without_rate(spec), Optimiser)
    cls = find(spec, torch.optim.Optimizer)
    if spec.args:
        raise UserError(f"{spec.name}: expected arguments by name, found {spec.args[0]!r}")
    return FromTorch(cls, spec.kwargs)


def _without_rate(spec: Spec) -> Spec:
    """Refuse a learning rate under any of the names it goes by."""
    for name in ("lr", "learning_rate"):
        if name in spec.kwargs:
            raise UserError(f"{spec.name}: {name}: expected the key learning-rate instead")
    return spec

"""Local SGD as some strategies count on it: what is no such thing, or miscounted, is refused."""

from __future__ import annotations

import math

from fl2ora.clip_tuning.schedules.base import Schedule
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import Spec, parse_spec
from fl2ora.strategies.client_rule import LocalStart
from fl2ora.strategies.updates import ClientUpdate

_DEFAULT_MOMENTUM = 0.9  # of the optimiser ``sgd``, where its spec does not say


def check_optimiser(strategy: str, optimiser: str, schedule: str, *, momentum: bool) -> None:
    """Refuse a run's optimiser and schedule unless they are SGD at one rate within a round.

    Args:
        strategy: named in the message.
        optimiser: spec, such as ``sgd(momentum=0.9)``.
        schedule: spec, such as ``cosine(per='round')``.
        momentum: whether heavy-ball momentum is allowed.

    Raises:
        UserError: names the key, what was expected and what was found.
    """
    spec = parse_spec(optimiser)
    found = spec.kwargs.get("momentum", spec.args[0] if spec.args else _DEFAULT_MOMENTUM)
    _refuse(strategy, spec, optimiser, 0.0 if spec.name != "sgd" else found, momentum)
    if load(schedule, Schedule).within_round:
        raise UserError(
            f"strategy {strategy!r}: schedule: expected a learning rate that is the same for all "
            f"steps of a round, such as constant or cosine(per='round'), found {schedule!r}"
        )


def check_start(strategy: str, start: LocalStart, *, momentum: bool) -> None:
    """Refuse on the client what ``check_optimiser`` refuses on the server.

    Raises:
        UserError: names what was expected and what was found.
    """
    spec = parse_spec(start.optimiser)
    _refuse(strategy, spec, start.optimiser, start.momentum, momentum)


def check_said(update: ClientUpdate, name: str, expected: float | None) -> None:
    """Refuse an update whose client says another number of its work than that work has.

    A false one would move the step of all clients.

    Args:
        update: has the number in ``aux``.
        name: of the number, above 0.
        expected: what the work has; None where that is not known.

    Raises:
        ValueError: names the number, what was expected and what was found.
    """
    value = update.aux.get(name)
    if value is None or value.numel() != 1 or not float(value) > 0:
        raise ValueError(f"aux: expected a positive number {name!r}, found {value}")
    if expected is not None and not math.isclose(float(value), expected, rel_tol=1e-4):
        raise ValueError(f"aux: {name}: expected {expected:.6g}, found {float(value):.6g}")


def _refuse(strategy: str, spec: Spec, text: str, momentum: float, allowed: bool) -> None:
    sgd = "sgd" if allowed else "sgd(momentum=0.0)"
    if spec.module is not None or spec.name != "sgd" or spec.kwargs.get("nesterov"):
        raise UserError(
            f"strategy {strategy!r}: optimiser: expected {sgd!r}, for which its client half is "
            f"defined, found {text!r}"
        )
    if momentum and not allowed:
        raise UserError(
            f"strategy {strategy!r}: optimiser: expected {sgd!r}, since its client half counts "
            f"plain steps, found momentum {momentum:g}"
        )

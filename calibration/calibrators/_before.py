"""A calibrator that is fitted before another one, in the same loop of sums."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators._tensors import scalar
from fl2ora.calibration.calibrators.base import Calibrator, FitState, Parameters, Sums

_PREFIX = "before."
_FITTED = "before_fitted"


class Before:
    """The first of two fits, told by ``before_fitted`` among the parameters: 0 until it is done.

    Its own parameters and what its fit remembers are there under ``before.<name>``.

    Args:
        spec: of the calibrator; empty: there is none, and probabilities are the softmax's.

    Raises:
        ValueError: no such calibrator; or it changes predictions, answers with sets, has nothing to
            fit, or reads more than logits.
    """

    def __init__(self, spec: str) -> None:
        self._calibrator = _built(spec) if spec else None
        self.max_steps = self._calibrator.max_steps if self._calibrator else 0

    def started(self, state: FitState, num_classes: int) -> FitState:
        """Return the state of the second fit with that of the first before its first step."""
        if self._calibrator is None:
            return state
        return self._joined(state, self._calibrator.start(num_classes))

    def at_work(self, parameters: Parameters) -> bool:
        """Return whether the first fit is not done yet."""
        return self._calibrator is not None and not float(parameters[_FITTED])

    def statistics(self, logits: Tensor, labels: Tensor, state: FitState) -> Sums:
        """Return the first calibrator's statistics."""
        return self._known.statistics(logits, labels, _own(state))

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse sums that no examples have."""
        self._known.check_sums(sums, _own(state), num_classes)

    def restart(self, state: FitState) -> FitState:
        """Forget what the first fit remembers of other clients' sums."""
        return self._joined(state, self._known.restart(_own(state)))

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take a step of the first fit."""
        return self._joined(state, self._known.update(_own(state), sums))

    def apply(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return log-probabilities ``(N, K)`` float64 of float64 logits."""
        if self._calibrator is None:
            return logits.log_softmax(dim=1)
        return self._calibrator.apply(logits, _stripped(parameters))

    def check(self, parameters: Parameters, num_classes: int) -> None:
        """Raise a ValueError unless the first calibrator's parameters fit ``num_classes``."""
        if self._calibrator is not None:
            self._calibrator.check(_stripped(parameters), num_classes)

    @property
    def _known(self) -> Calibrator:
        assert self._calibrator is not None
        return self._calibrator

    def _joined(self, state: FitState, own: FitState) -> FitState:
        """Return ``state`` with the first fit's; a fit whose steps are spent stays unconverged."""
        named = {_PREFIX + name: value for name, value in own.parameters.items()}
        solver = {_PREFIX + name: value for name, value in own.solver.items()}
        return replace(
            state,
            parameters={**state.parameters, **named, _FITTED: scalar(own.done)},
            solver={**state.solver, **solver},
            converged=own.converged if own.done else state.converged,
        )


def _built(spec: str) -> Calibrator:
    from fl2ora.calibration.calibrators.files import build_calibrator

    try:
        found = build_calibrator(spec)
    except ValueError as error:
        raise ValueError(f"after: {error}") from None
    except TypeError as error:
        raise ValueError(f"after: {spec!r}: {error}") from None
    usable = found.preserves_argmax and found.max_steps and not (found.needs or found.fit_needs)
    if not usable or isinstance(found, SetCalibrator):
        raise ValueError(
            "after: expected a calibrator that is fitted to logits alone and keeps the prediction, "
            f"such as 'temperature', found {spec!r}"
        )
    return found


def _own(state: FitState) -> FitState:
    return FitState(_stripped(state.parameters), _stripped(state.solver), False)


def _stripped(named: Parameters) -> Parameters:
    return {n.removeprefix(_PREFIX): v for n, v in named.items() if n.startswith(_PREFIX)}

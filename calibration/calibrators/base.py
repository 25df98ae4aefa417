"""The contract of a post-hoc calibrator: additive statistics in, parameters out.

A fit is a loop that a single machine and a federation run alike: every client computes
``statistics`` of its own calibration data at the current parameters, the sums are added, and
``update`` takes one step. Because only sums enter ``update``, the federated fit of a calibrator
marked ``exact`` equals the fit on the pooled data.

What may travel: ``statistics`` reads ``state.parameters`` alone, so the server keeps ``solver`` to
itself. Everything is float64 on the CPU; logits of any precision and device are widened first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._tensors import as_labels, as_logits
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.row_blocks import ArrayLike

Parameters = dict[str, Tensor]
Sums = dict[str, Tensor]


@dataclass(frozen=True)
class FitState:
    """Where a fit stands.

    Attributes:
        parameters: what ``apply`` and ``statistics`` need, float64 tensors by name. During a fit
            they may be a trial point; once ``done`` they are the result.
        solver: whatever ``update`` remembers between steps, float64 tensors by name.
        done: no further step is needed.
        converged: False where the steps were spent before the fit met its tolerance; of no meaning
            before ``done``.
    """

    parameters: Parameters
    solver: Parameters
    done: bool
    converged: bool = True


@dataclass(frozen=True)
class CalibrationContext:
    """What a calibrator may want beyond logits; only what it ``needs`` must be filled.

    Attributes:
        zero_shot_logits: ``(N, K)`` logits of the frozen zero-shot model for the same images.
        text_features: ``(K, D)`` unit text features of the tuned model, one row per class.
        zero_shot_text_features: ``(K, D)`` unit text features of the frozen zero-shot model.
        base_text_features: ``(B, D)`` tuned unit text features of the classes seen in training.
        base_zero_shot_text_features: ``(B, D)`` the same classes by the zero-shot model.
    """

    zero_shot_logits: Tensor | None = None
    text_features: Tensor | None = None
    zero_shot_text_features: Tensor | None = None
    base_text_features: Tensor | None = None
    base_zero_shot_text_features: Tensor | None = None

    @classmethod
    def of_tuned_classes(
        cls, zero_shot_logits: Tensor, text_features: Tensor, zero_shot_text_features: Tensor
    ) -> CalibrationContext:
        """Return the context of classes that are all tuned on, so that they are the base ones."""
        texts = text_features, zero_shot_text_features
        return cls(zero_shot_logits, *texts, *texts)

    def require(self, name: str, reader: str) -> Tensor:
        """Return the field ``name``, or raise a ValueError that says who misses it."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"{reader}: expected a context with {name}, found none")
        return value


KNOWN_IN_A_RUN = frozenset({"zero_shot_logits", "text_features", "zero_shot_text_features"})
"""Fields of the context of every run."""

BASE_CLASSES = frozenset({"base_text_features", "base_zero_shot_text_features"})
"""Fields that tell something only where a run also measures classes it is not tuned on."""


class Calibrator(ABC):
    """A map from logits to calibrated log-probabilities, fitted on held-out data.

    Attributes:
        exact: the federated fit equals this method's fit on the pooled examples. Where it is
            False (fine-bin approximations) the fit still equals that of the pooled bins.
        preserves_argmax: the reported prediction stays the argmax of the *input* logits. A map
            of the top confidence alone may leave another class with more probability than the
            predicted one: so report ``predictions`` and ``confidence``, not argmax of ``apply``.
        needs: fields of ``CalibrationContext`` that ``apply`` reads.
        fit_needs: fields of ``CalibrationContext`` that ``statistics`` reads.
        max_steps: the most rounds of statistics a fit may take; 0 where there is nothing to fit.
        parameters: what ``fit`` found, None before.

    Examples:
        On the data of one machine, with numpy arrays or tensors alike; every prediction here has
        confidence 0.953 and three of four are right:

        >>> import numpy as np
        >>> from fl2ora.calibration.calibrators.temperature import Temperature
        >>> logits = np.array([[3.0, 0.0]] * 4)
        >>> calibrator = Temperature().fit(logits, np.array([0, 0, 0, 1]))
        >>> calibrator.transform(logits)[0].round(3)
        array([0.75, 0.25])
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    fit_needs: frozenset[str] = frozenset()
    max_steps: int = 1
    parameters: Parameters | None = None

    def fit(
        self, logits: ArrayLike, labels: ArrayLike, *, context: CalibrationContext | None = None
    ) -> Self:
        """Fit to ``logits (N, K)`` and ``labels (N,)`` and return the calibrator itself.

        Raises:
            ValueError: no examples, wrong shapes or values, or a context without what it needs.
        """
        z = as_logits(logits)
        contexts = None if context is None else [context]
        self.parameters = fit(self, [(z, as_labels(labels, z))], contexts)
        return self

    def transform(
        self, logits: ArrayLike, *, context: CalibrationContext | None = None
    ) -> ArrayLike:
        """Return calibrated probabilities ``(N, K)`` float64: an array for an array.

        For tensors the result is a tensor on the CPU. The class to report and its confidence are
        ``predictions`` and ``confidence``, see ``preserves_argmax``.

        Raises:
            ValueError: not fitted, or logits of another number of classes.
        """
        z = as_logits(logits)
        parameters = self.parameters
        if parameters is None:
            if self.max_steps:
                raise ValueError(f"{type(self).__name__}: expected a call of fit before transform")
            parameters = self.start(z.shape[1]).parameters
        self.check(parameters, z.shape[1])
        probabilities = self.apply(z, parameters, context=context).exp()
        return probabilities if isinstance(logits, Tensor) else probabilities.numpy()

    def fit_transform(
        self, logits: ArrayLike, labels: ArrayLike, *, context: CalibrationContext | None = None
    ) -> ArrayLike:
        """Return ``transform`` of the data that ``fit`` saw: no fair view of its quality."""
        return self.fit(logits, labels, context=context).transform(logits, context=context)

    @abstractmethod
    def start(self, num_classes: int) -> FitState:
        """Return the state before the first step; ``apply`` at it is the identity if possible.

        Raises:
            ValueError: ``num_classes`` is below 2.
        """

    @abstractmethod
    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return additive sums over ``logits (N, K)`` and ``labels (N,)``; N may be 0.

        Large data may be given in slices whose answers ``add_sums`` adds.
        Every answer holds ``count``, the number of examples (in total or by bin).
        """

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:  # noqa: B027
        """Refuse statistics that no examples have; names, shapes and counts are sound.

        Args:
            sums: what one client sent.
            state: what it computed them at.
            num_classes: K.

        Raises:
            ValueError: names the sum, what was expected and what was found.
        """

    @abstractmethod
    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one step from the added sums of all clients.

        Raises:
            ValueError: no client had a single example.
        """

    def restart(self, state: FitState) -> FitState:
        """Return ``state`` without what it remembers of sums over other clients.

        To be called before ``update`` where the clients behind the sums are not those behind the
        sums before: losses of different examples must not be compared. The parameters and the
        number of steps taken stay. Nothing to do for a calibrator that remembers no sums.
        """
        return state

    @abstractmethod
    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return calibrated log-probabilities ``(N, K)`` float64, finite, of ``logits (N, K)``."""

    def predictions(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the class to report, ``(N,)`` int64; of equal ones the lowest index."""
        if self.preserves_argmax:
            return as_logits(logits).argmax(dim=1)
        return self.apply(logits, parameters, context=context).argmax(dim=1)

    def confidence(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the calibrated probability of ``predictions``, ``(N,)`` float64 in [0, 1]."""
        log_probabilities = self.apply(logits, parameters, context=context)
        chosen = as_logits(logits) if self.preserves_argmax else log_probabilities
        of_chosen = log_probabilities.gather(1, chosen.argmax(dim=1, keepdim=True))
        return of_chosen.squeeze(1).exp().clamp(max=1)

    def check(self, parameters: Parameters, num_classes: int) -> None:
        """Raise a ValueError unless ``parameters`` fit ``num_classes``: names, shapes, finite."""
        expected = self.start(num_classes).parameters
        names = sorted(expected.keys() ^ parameters.keys())
        if names:
            raise ValueError(f"parameters: expected {sorted(expected)}, found {sorted(parameters)}")
        for name, value in parameters.items():
            if value.shape != expected[name].shape:
                raise ValueError(
                    f"parameter {name!r}: expected shape {tuple(expected[name].shape)} for "
                    f"{num_classes} classes, found {tuple(value.shape)}"
                )
            if not torch.isfinite(value).all():
                raise ValueError(f"parameter {name!r}: expected finite values, found others")

"""Split conformal prediction: a set of classes that holds the label as often as is wanted.

The threshold is the ``ceil((n + 1)(1 - alpha))``-th lowest score of the labels of all clients' n
calibration images. If new images are drawn as those were, all clients' pooled, a set holds the
label with probability at least ``1 - alpha``; no single client is promised that. Confidence stays
that of the softmax, or of the calibrator that is fitted first, on the same images. With one the
promise is no longer exact, since its fit has seen those images; in simulations a temperature moved
the coverage by less than a hundredth.

Sources: Vovk, Gammerman & Shafer, "Algorithmic learning in a random world" (2005); Angelopoulos &
Bates, "A gentle introduction to conformal prediction" (2021, arXiv 2107.07511); for the scores see
``calibration/conformal/scores.py``. Over clients: Lu, Yu, Karimireddy, Jordan & Raskar, "Federated
conformal predictors for distributed uncertainty quantification" (2023, arXiv 2305.17564).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fl2ora.calibration.calibrators._before import Before
from fl2ora.calibration.calibrators._sets import SetCalibrator
from fl2ora.calibration.calibrators._tensors import (
    as_labels,
    as_logits,
    check_choice,
    check_classes,
    check_examples,
    check_number,
    check_whole,
    scalar,
)
from fl2ora.calibration.calibrators.base import CalibrationContext, FitState, Parameters, Sums
from fl2ora.calibration.conformal.quantile import Bracket, conformal_rank, counts_in, narrowed
from fl2ora.calibration.conformal.scores import KINDS, class_scores, largest_score

_STEPS = 3


class Conformal(SetCalibrator):
    """Sets of classes with a wanted coverage; the most likely class is always in.

    Parameters: ``threshold`` that a score may have; ``above``, below which it does not lie;
    ``num_classes``; and, with ``after``, those of ``Before``.

    Args:
        score: ``lac``, the smallest sets on average; ``aps``, sets that grow where the model is
            unsure; ``raps``, as ``aps`` without the long tails.
        alpha: share of images whose set may miss the label.
        penalty: of ``raps``, for each class beyond ``free``.
        free: how many classes of a set ``raps`` does not penalise.
        bins: in which scores are counted in each of three rounds.
        after: spec of a calibrator that is fitted first, such as ``temperature``, so that sets
            stand on calibrated probabilities; empty: none.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True

    def __init__(
        self,
        score: str = "lac",
        alpha: float = 0.1,
        penalty: float = 0.01,
        free: int = 5,
        bins: int = 256,
        after: str = "",
    ) -> None:
        self.score = check_choice("score", score, KINDS)
        self.alpha = check_number("alpha", alpha, positive=True)
        if alpha >= 1:
            raise ValueError(f"alpha: expected a number between 0 and 1, found {alpha!r}")
        self.penalty = check_number("penalty", penalty)
        self.free = check_whole("free", free, 0)
        self.bins = check_whole("bins", bins, 2, 65_536)
        self._before = Before(after)
        self.max_steps = self._before.max_steps + _STEPS

    @property
    def calibrates(self) -> bool:
        """Whether a calibrator is fitted first."""
        return bool(self._before.max_steps)

    @property
    def coverage(self) -> float:
        """``1 - alpha``."""
        return 1 - self.alpha

    def start(self, num_classes: int) -> FitState:
        """Return the whole range of scores, at which every set holds all classes."""
        check_classes(num_classes)
        whole = Bracket(0.0, largest_score(self.score, num_classes, self.penalty, self.free))
        state = FitState(_parameters(whole, num_classes), {"step": scalar(0)}, False)
        return self._before.started(state, num_classes)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count`` of labels' scores, ``(bins + 2,)``; see ``counts_in``.

        Before that, the statistics of the calibrator that is fitted first.
        """
        if self._before.at_work(state.parameters):
            return self._before.statistics(logits, labels, state)
        z = as_logits(logits)
        scores = self._scores(z, state.parameters).gather(1, as_labels(labels, z)[:, None])
        return {"count": counts_in(scores.squeeze(1), _bracket(state.parameters), self.bins)}

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse what no images have, as the calibrator does that is fitted first."""
        if self._before.at_work(state.parameters):
            self._before.check_sums(sums, state, num_classes)

    def restart(self, state: FitState) -> FitState:
        """Forget sums of other clients, as the calibrator does that is fitted first."""
        return self._before.restart(state) if self._before.at_work(state.parameters) else state

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Narrow the interval to the bin that holds the threshold."""
        if self._before.at_work(state.parameters):
            return self._before.update(state, sums)
        rank = conformal_rank(round(check_examples(self, sums)), self.alpha)
        num_classes, step = int(state.parameters["num_classes"]), float(state.solver["step"]) + 1
        largest = largest_score(self.score, num_classes, self.penalty, self.free)
        counts, before = sums["count"], _bracket(state.parameters)
        if rank > float(counts.sum()):
            found, done = Bracket(before.above, largest), True
        else:
            found = narrowed(counts, before, rank, largest)
            done = step >= _STEPS or found.above == found.threshold
        parameters = {**state.parameters, **_parameters(found, num_classes)}
        return FitState(parameters, {**state.solver, "step": scalar(step)}, done, state.converged)

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the logarithm of the softmax, or what the calibrator before makes of it."""
        return self._before.apply(as_logits(logits), parameters)

    def sets(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return ``(N, K)`` bool: the most likely class, and those up to the threshold."""
        z = as_logits(logits)
        inside = self._scores(z, parameters) <= parameters["threshold"]
        return inside.scatter_(1, z.argmax(dim=1, keepdim=True), True)

    def check(self, parameters: Parameters, num_classes: int) -> None:
        """Refuse parameters of other names or shapes, or fitted to another number of classes."""
        super().check(parameters, num_classes)
        fitted = float(parameters["num_classes"])
        if fitted != num_classes:
            raise ValueError(
                f"parameter 'num_classes': expected {num_classes}, found {fitted:g}: a threshold "
                "means nothing for other classes"
            )
        self._before.check(parameters, num_classes)

    def _scores(self, logits: Tensor, parameters: Parameters) -> Tensor:
        p = self._before.apply(logits, parameters).exp()
        return class_scores(p, self.score, self.penalty, self.free)


def _parameters(bracket: Bracket, num_classes: int) -> Parameters:
    return {
        "above": scalar(bracket.above),
        "threshold": scalar(bracket.threshold),
        "num_classes": scalar(num_classes),
    }


def _bracket(parameters: Parameters) -> Bracket:
    return Bracket(float(parameters["above"]), float(parameters["threshold"]))

"""What may watch a run, add to its record, stop it, or have a say in its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.reporting.events import Tracker
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate

if TYPE_CHECKING:
    from fl2ora.server_app.evaluation import Evaluation

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class RunContext:
    """A run as callbacks see it.

    Attributes:
        config: all settings.
        folder: the run directory, which exists.
        tracker: takes events and metrics.
        classifier: the server's, on its device; what is tuned in it is anyone's.
        evaluation: what has been measured so far.
    """

    config: RunConfig
    folder: Path
    tracker: Tracker
    classifier: ClipClassifier
    evaluation: Evaluation


@dataclass(frozen=True)
class RoundReport:
    """What a round came to.

    Attributes:
        plan: what the clients were sent.
        adapter: the global adapter after the round.
        metrics: by source (``training``, ``server-test``, ...), as far as they are known.
        bytes_down: of tensors sent to each client that was asked to train.
        bytes_up: of tensors in each usable reply.
    """

    plan: RoundPlan
    adapter: Adapter
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    bytes_down: Sequence[int] = ()
    bytes_up: Sequence[int] = ()


@dataclass(frozen=True)
class Reaction:
    """What a callback makes of a round.

    Attributes:
        metrics: further ones, recorded under the source ``training``.
        stop: why the run should end here, or empty.
        adapter: put in place of the round's, or None.
    """

    metrics: Metrics = field(default_factory=dict)
    stop: str = ""
    adapter: Adapter | None = None


class Callback:
    """Hooks into the round loop; a subclass overrides those it wants.

    One file of this folder each, named in the run config's ``callbacks``; or a class of yours,
    ``my_lab.callbacks:Mine(...)``. Whatever one remembers between rounds goes through ``state`` and
    ``load_state``, so that a saved run can go on.
    """

    parts: frozenset[str] = frozenset()
    """Held-out parts it reads besides the test images: ``validation``."""

    def on_start(self, run: RunContext) -> None:
        """Look at the run before its first round."""

    def on_update(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Look at one usable update as it comes; it is not kept for you."""

    def after_training(self, report: RoundReport) -> Reaction | None:
        """React to a round's training, before anything is measured."""

    def after_round(self, report: RoundReport) -> Reaction | None:
        """React to a round after it was measured, if it was; a new adapter is refused here."""

    def on_end(self, run: RunContext) -> None:
        """Leave something behind; everything training made is saved by now."""

    def state(self) -> Adapter:
        """Return what is remembered between rounds."""
        return {}

    def load_state(self, state: Adapter) -> None:
        """Take up what ``state`` returned."""

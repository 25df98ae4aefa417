"""Everything one client's training in one round depends on, beside its images and its model."""

from __future__ import annotations

from dataclasses import dataclass, field

from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.strategies.client_rule import ClientRule


@dataclass(frozen=True)
class TrainingPlan:
    """How one client trains in one round; most attributes are run-config keys of the same names.

    Attributes:
        loss: of one batch; a fresh object for every round.
        rule: client half of the strategy, likewise; plain training by default.
        epochs: passes over the images.
        batch_size: images per batch; the last batch of an epoch may be smaller.
        accumulate: batches whose gradients make one step; the last step of an epoch may have fewer.
        learning_rate: before the schedule.
        optimiser: spec string, see ``optimisers``; its state starts anew every round.
        schedule: spec string, see ``schedules``.
        gradient_clip: largest L2 norm of a step's gradient over all that is trained; 0: no limit.
        augmentation: of the images.
        precision: ``float32``; ``tf32`` for its products on a CUDA device; or ``bfloat16``,
            ``float16`` for autocast of the forward pass.
        deterministic: the same bits for the same seed on a CUDA device too.
        cuda_graphs: on a CUDA device, record passes and start them as one where that can be done.
        round: of the run, from 1.
        num_rounds: of the run.
        seed: of this client in this round; every random draw comes from it.
        client: its key.
        aux: tensors the strategy sent for the rule.
        state: what the rule kept when this client last took part.
        previous: the adapter this client received when it last took part.
    """

    loss: Loss
    rule: ClientRule = field(default_factory=ClientRule)
    epochs: int = 1
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimiser: str = "sgd"
    schedule: str = "constant"
    gradient_clip: float = 0.0
    augmentation: Augmentation = "none"
    precision: str = "float32"
    deterministic: bool = True
    cuda_graphs: bool = True
    round: int = 1
    num_rounds: int = 1
    seed: int = 0
    client: str = ""
    aux: Adapter = field(default_factory=dict)
    state: Adapter = field(default_factory=dict)
    previous: Adapter = field(default_factory=dict)

    def steps(self, num_examples: int) -> int:
        """Return how many optimiser steps ``num_examples`` images make.

        >>> from fl2ora.calibration.losses.cross_entropy import CrossEntropy
        >>> TrainingPlan(CrossEntropy(), epochs=2, batch_size=8, accumulate=3).steps(50)
        6
        """
        return self.epochs * -(-num_examples // (self.batch_size * self.accumulate))

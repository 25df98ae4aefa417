"""What the run config lets a client do in a round, to hold against what the client reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.clip_tuning.optimisers.base import load_optimiser
from fl2ora.clip_tuning.schedules.base import Progress, Schedule, checked_factor
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.plugins import load
from fl2ora.messages.hello import NodeInfo
from fl2ora.strategies.base import LocalWork


def local_work(config: RunConfig, infos: Mapping[str, NodeInfo]) -> Callable[[str, int], LocalWork]:
    """Return the work of a client in a round, from the images it said it trains on."""
    rate = learning_rate_for(config.method, config.model, config.optimiser, config.learning_rate)
    schedule = load(config.schedule, Schedule)
    nothing = [nn.Parameter(torch.zeros(0, 0))]
    settings = load_optimiser(config.optimiser).make(nothing, rate).defaults

    def work(client: str, server_round: int) -> LocalWork:
        batches = math.ceil(infos[client].num_train / (config.batch_size * config.accumulate))
        steps = config.local_epochs * batches
        at = Progress(server_round, config.num_rounds, 0, max(1, steps))
        return LocalWork(
            steps,
            rate * checked_factor(schedule, at),
            float(settings.get("momentum", 0.0)),
        )

    return work

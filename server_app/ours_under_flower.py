"""A strategy of ours under Flower's own loop, ``Strategy.start``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.clip_tuning.adapter import as_adapter
from fl2ora.messages.pooled import pooled_metrics
from fl2ora.messages.records import (
    ARRAYS,
    AUX,
    CLIENT_RULE,
    CONFIG,
    EVALUATE,
    EXAMPLES,
    ROUND,
    TRAIN,
)
from fl2ora.messages.replies import Drop, decode_update, usable_replies
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate

logger = logging.getLogger(__name__)


class OursUnderFlower(FlowerStrategy):
    """``OursUnderFlower(FedDyn()).start(grid, arrays, num_rounds=3)`` in a ServerApp of your own.

    The clients of the run are the nodes that the grid shows in the first round, their keys the node
    ids as text; nodes that join later are not asked. The ClientApp must be fl2ora's, or act on the
    client rule it is sent.

    Args:
        strategy: one of ours.
        min_available_nodes: how many nodes to wait for before the first round, as Flower's own
            strategies do: for ever.
    """

    def __init__(self, strategy: Strategy, min_available_nodes: int = 1) -> None:
        self.strategy = strategy
        self._least_nodes = max(1, min_available_nodes)
        self._plan: RoundPlan | None = None

    def summary(self) -> None:
        """Log the strategy's name."""
        logger.info("Strategy: %s", type(self.strategy).__name__)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plan the round, and address one train message to every node of the run."""
        current = as_adapter(arrays.to_torch_state_dict())
        if self._plan is None:
            self.strategy.begin(RunInfo(self._wait_for_nodes(grid), current))
        shown = {str(node): node for node in grid.get_node_ids()}
        clients = [client for client in self.strategy.run.clients if client in shown]
        self._plan = self.strategy.plan(server_round, current, clients)
        return [_train_message(self._plan, client, shown[client], config) for client in clients]

    def _wait_for_nodes(self, grid: Grid) -> tuple[str, ...]:
        while len(nodes := sorted(grid.get_node_ids())) < self._least_nodes:
            logger.info("Waiting for nodes: %d of %d", len(nodes), self._least_nodes)
            time.sleep(1)
        return tuple(map(str, nodes))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what is usable; ``(None, None)``, which keeps the adapter, of too few."""
        assert self._plan is not None
        updates = self._usable(self._plan, replies)
        first = list(islice(updates, self.strategy.least_updates))
        if len(first) < self.strategy.least_updates:
            logger.warning("Round %d: only %d usable replies", server_round, len(first))
            return None, None
        means = Means()
        watched = means.watch(chain(first, updates))
        adapter = as_adapter(self.strategy.aggregate(self._plan, watched))
        return ArrayRecord(adapter), MetricRecord({**means.record(), **self.strategy.metrics()})

    def _usable(self, plan: RoundPlan, replies: Iterable[Message]) -> Iterator[ClientUpdate]:
        for reply in usable_replies(replies, plan.current, _log_drop):
            node = reply.metadata.src_node_id
            update = replace(decode_update(reply), client=str(node))
            try:
                self.strategy.check_update(plan, update)
            except ValueError as error:
                _log_drop(Drop(update.client, node, str(error)))
            else:
                yield update

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address one evaluate message to every node the grid shows."""
        settings = {**config, ROUND: server_round}
        return [
            Message(
                content=RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(dict(settings))}),
                message_type=EVALUATE,
                dst_node_id=node,
            )
            for node in grid.get_node_ids()
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the pooled calibration metrics of all nodes' sums."""
        return pooled_metrics(replies)


def _train_message(plan: RoundPlan, client: str, node: int, config: ConfigRecord) -> Message:
    settings = {**config, ROUND: plan.round, CLIENT_RULE: plan.rule}
    content = RecordDict({ARRAYS: ArrayRecord(as_adapter(plan.start_of(client)))})
    content[CONFIG] = ConfigRecord(settings)
    if plan.aux:
        content[AUX] = ArrayRecord(as_adapter(plan.aux))
    return Message(content=content, message_type=TRAIN, dst_node_id=node)


def _log_drop(drop: Drop) -> None:
    logger.warning("Reply of client %s not used: %s", drop.client, drop.reason)


class Means:
    """Example-weighted means of what clients report, gathered while updates stream by."""

    def __init__(self) -> None:
        self.examples: list[int] = []
        self.losses: list[float] = []

    def watch(self, updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
        """Yield the updates as they come, and count each."""
        for update in updates:
            self.examples.append(update.num_examples)
            self.losses.append(update.metrics.get("loss", math.nan) * update.num_examples)
            yield update

    def record(self) -> dict[str, float]:
        """Return how many clients and examples there were, and the mean loss if all told theirs."""
        total = sum(self.examples)
        loss = math.fsum(self.losses) / max(1, total)
        counts: dict[str, float] = {"clients": len(self.examples), EXAMPLES: total}
        return counts if math.isnan(loss) else {**counts, "loss": loss}

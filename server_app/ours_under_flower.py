"""A strategy of ours under Flower's own loop, ``Strategy.start``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.config import Value
from fl2ora.experiment.errors import UserError
from fl2ora.messages.evaluate import TEST, EvaluateTask, decode_measured, encode_evaluate
from fl2ora.messages.records import ARRAYS, UnusableMessageError
from fl2ora.messages.tensors import decode_tensors, encode_tensors
from fl2ora.messages.train import decode_update, encode_train
from fl2ora.server_app.client_means import ClientMeans
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate, checked_metrics

logger = logging.getLogger(__name__)


class OursUnderFlower(FlowerStrategy):
    """``OursUnderFlower(FedDyn()).start(grid, arrays, num_rounds=3)`` in a ServerApp of your own.

    The clients of the run are the nodes that the grid shows in the first round, their keys the node
    ids as text; nodes that join later are not asked. The ClientApp must be fl2ora's, or act on the
    client rule it is sent.

    Args:
        strategy: one of ours.
        min_available_nodes: how many nodes to wait for before the first round.
        spec: sizes of the sums that the nodes measure; those of the run config.
        start_timeout: seconds to wait for them; Flower's own strategies wait for ever.

    Raises:
        UserError: fewer nodes have come by then, from ``start``.
    """

    def __init__(
        self,
        strategy: Strategy,
        min_available_nodes: int = 1,
        spec: StatsSpec | None = None,
        start_timeout: float = 600.0,
    ) -> None:
        self.strategy = strategy
        self._least_nodes = max(1, min_available_nodes)
        self._spec = spec or StatsSpec()
        self._start_timeout = start_timeout
        self._plan: RoundPlan | None = None

    def summary(self) -> None:
        """Log the strategy's name."""
        logger.info("Strategy: %s", type(self.strategy).__name__)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Plan the round, and address one train message to every node of the run."""
        current = _adapter(arrays)
        if self._plan is None:
            self.strategy.begin(RunInfo(self._wait_for_nodes(grid), current))
        shown = {str(node): node for node in grid.get_node_ids()}
        clients = [client for client in self.strategy.run.clients if client in shown]
        self._plan = self.strategy.plan(server_round, current, clients)
        nodes = {shown[client]: client for client in clients}
        return list(encode_train(self._plan, nodes, server_round, _scalars(config)))

    def _wait_for_nodes(self, grid: Grid) -> tuple[str, ...]:
        deadline = time.monotonic() + self._start_timeout
        while len(nodes := sorted(grid.get_node_ids())) < self._least_nodes:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"min_available_nodes: expected {self._least_nodes} nodes, found {len(nodes)} "
                    f"after {self._start_timeout:g} s"
                )
            logger.info("Waiting for nodes: %d of %d", len(nodes), self._least_nodes)
            time.sleep(1)
        return tuple(map(str, nodes))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what is usable; ``(None, None)``, which keeps the adapter, of too few."""
        assert self._plan is not None
        means = ClientMeans()
        updates = self._usable(self._plan, replies, means)
        first = list(islice(updates, self.strategy.least_updates))
        if len(first) < self.strategy.least_updates:
            logger.warning("Round %d: only %d usable replies", server_round, len(first))
            return None, None
        adapter = self.strategy.aggregate(self._plan, chain(first, updates))
        # What clients report is counted here, whatever a strategy calls its own numbers.
        metrics = {**checked_metrics(self.strategy.metrics()), **means.result()}
        return encode_tensors(adapter), MetricRecord(dict(metrics))

    def _usable(
        self, plan: RoundPlan, replies: Iterable[Message], means: ClientMeans
    ) -> Iterator[ClientUpdate]:
        waiting = set(plan.clients)
        for reply in replies:
            client = str(reply.metadata.src_node_id)
            try:
                if client not in waiting:
                    raise UnusableMessageError("a second reply, or one of a node not asked")
                waiting.discard(client)
                update = decode_update(reply, client, plan.start_of(client))
                self.strategy.check_update(plan, update)
            except ValueError as error:
                logger.warning("Reply of client %s not used: %s", client, error)
                continue
            means.on_update(plan, update)
            yield update

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address one evaluate message to every node the grid shows."""
        task = EvaluateTask(_adapter(arrays), server_round)
        return encode_evaluate(task, {node: str(node) for node in grid.get_node_ids()})

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the metrics of all nodes' sums together, None where no node answered soundly."""
        total: CalibrationStats | None = None
        for reply in replies:
            try:
                stats = decode_measured(reply, {TEST: None}, self._spec)[TEST]
            except UnusableMessageError as error:
                logger.warning("Sums of node %s not used: %s", reply.metadata.src_node_id, error)
                continue
            total = stats if total is None else total + stats
        return None if total is None else MetricRecord(dict(summarise(total)))


def _adapter(arrays: ArrayRecord) -> Adapter:
    """Return what Flower's loop was started with; other libraries' models may be float64."""
    return decode_tensors(arrays, ARRAYS, torch.float32, torch.float64)


def _scalars(config: ConfigRecord) -> dict[str, Value]:
    """Return the settings of Flower's loop that a train message of ours may hold."""
    return {str(k): v for k, v in config.items() if isinstance(v, bool | int | float | str)}

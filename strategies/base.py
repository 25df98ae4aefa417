"""The contract of a strategy: pure functions on adapters behind Flower's Strategy interface."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.factors import carries_residual
from fl2ora.experiment.errors import UserError
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
from fl2ora.strategies.updates import ClientUpdate

logger = logging.getLogger(__name__)


class Strategy(FlowerStrategy):
    """How client updates become the next global adapter.

    A subclass implements ``aggregate``; what it remembers between rounds goes through ``state`` and
    ``load_state``. It runs in fl2ora's round loop and under Flower's plain ``Strategy.start``.

    Attributes:
        needs_plain_sgd: the clients' SGD must have no momentum; a run config with some is refused.
        num_clients: all clients of the run, also those not chosen in a round; the round loop sets
            it, under plain ``start`` it is the number of nodes the grid shows.
        server_round: the round in progress, counted from 1; set before the messages are made.
        clients: keys of all clients of the run in order, where the round loop sets them.
        client_ranks: LoRA ranks that nodes ask for in their own config, by client key, where the
            round loop sets them.
    """

    needs_plain_sgd: bool = False
    num_clients: int = 0
    server_round: int = 0
    clients: Sequence[str] = ()
    client_ranks: Mapping[str, int] = MappingProxyType({})

    @property
    def spec_name(self) -> str:
        """The name a run config calls this strategy by, if it is one of the files here."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        """Return the next global adapter.

        Args:
            server_round: counted from 1.
            current: the adapter the clients started from.
            updates: at least one usable update, in the order of arrival; may be a stream.
        """

    def check(self, adapter: Adapter) -> None:
        """Refuse an initial adapter this strategy cannot work with; called before any training.

        A strategy that works with named tensors whatever they mean leaves this as it is: refused is
        only a residual that it would never move.

        Raises:
            UserError: names the strategy, what it needs and what was found.
        """
        if carries_residual(adapter):
            raise UserError(
                f"strategy {self.spec_name!r} does not move the residual of method = "
                f"'lora_residual(...)': expected method = 'lora(...)', or one of the strategies "
                f"fedex_lora and flora"
            )

    def client_rule(self) -> str:
        """Return the spec of the client half, sent with every train message; empty: plain SGD."""
        return ""

    def broadcast(self) -> Adapter:
        """Return further tensors for the client half, sent with every train message."""
        return {}

    def outgoing(self, client: str, current: Adapter) -> Adapter:
        """Return what one client starts from; the global adapter unless a strategy differs."""
        return current

    def check_update(self, update: ClientUpdate) -> None:
        """Refuse an update this strategy cannot use; its names, shapes and values are sound.

        Raises:
            ValueError: the reason; the update is dropped and the run goes on.
        """

    def metrics(self) -> dict[str, float]:
        """Return further figures of the last aggregation, for the run's record."""
        return {}

    def state(self) -> Adapter:
        """Return what the strategy remembers between rounds."""
        return {}

    def load_state(self, state: Adapter) -> None:
        """Take up what ``state`` returned."""

    def summary(self) -> None:
        """Log the strategy's name."""
        logger.info("Strategy: %s", type(self).__name__)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address one train message to every node the grid shows."""
        self._current = as_adapter(arrays.to_torch_state_dict())
        self.check(self._current)
        self.server_round = server_round
        nodes = list(grid.get_node_ids())
        self.num_clients = self.num_clients or len(nodes)
        settings = {**config, ROUND: server_round, CLIENT_RULE: self.client_rule()}
        aux = self.broadcast()
        messages = []
        for node in nodes:
            content = RecordDict({ARRAYS: self._arrays_for(node, arrays, grid)})
            content[CONFIG] = ConfigRecord(dict(settings))
            if aux:
                content[AUX] = ArrayRecord(as_adapter(aux))
            messages.append(Message(content=content, message_type=TRAIN, dst_node_id=node))
        return messages

    def _arrays_for(self, node: int, arrays: ArrayRecord, grid: Grid) -> ArrayRecord:
        """Return what one node starts from; a grid that knows clients' keys has ``client_of``."""
        client = grid.client_of(node) if hasattr(grid, "client_of") else str(node)
        adapter = self.outgoing(client, self._current)
        return arrays if adapter is self._current else ArrayRecord(as_adapter(adapter))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what is usable; ``(None, None)`` where nothing is, which keeps the adapter."""
        usable = iter(usable_replies(replies, self._current, _log_drop, check=self.check_update))
        first = next(usable, None)
        if first is None:
            return None, None
        means = _Means()
        updates = means.watch(decode_update(message) for message in chain([first], usable))
        adapter = as_adapter(self.aggregate(server_round, self._current, updates))
        return ArrayRecord(adapter), MetricRecord({**means.record(), **self.metrics()})

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


def _log_drop(drop: Drop) -> None:
    logger.warning("Reply of client %s not used: %s", drop.client, drop.reason)


class _Means:
    """Example-weighted means of what clients report, gathered while updates stream by."""

    def __init__(self) -> None:
        self.examples: list[int] = []
        self.losses: list[float] = []

    def watch(self, updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
        for update in updates:
            self.examples.append(update.num_examples)
            self.losses.append(update.metrics.get("loss", math.nan) * update.num_examples)
            yield update

    def record(self) -> MetricRecord:
        total = sum(self.examples)
        return MetricRecord(
            {
                "clients": len(self.examples),
                EXAMPLES: total,
                "loss": math.fsum(self.losses) / max(1, total),
            }
        )

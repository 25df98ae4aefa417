"""The round loop: sample, train, drop what is unusable, aggregate, measure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.methods.logit_scale import scale_figures
from fl2ora.experiment.config import RunConfig
from fl2ora.messages.receiving import receive
from fl2ora.messages.records import METRICS
from fl2ora.messages.replies import Drop, decode_update, usable_replies
from fl2ora.reporting.events import Tracker
from fl2ora.server_app.chosen_grid import ChosenGrid
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.handshake import Peer
from fl2ora.server_app.lora_diagnostics import LoraDiagnostics
from fl2ora.server_app.sampling import sample
from fl2ora.server_app.traffic import Traffic
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.updates import WeightedMean


class Rounds:
    """Runs federated training.

    Args:
        grid: where the nodes are.
        peers: the nodes, sorted by client key.
        strategy: ours or one of Flower's.
        config: of the run.
        evaluation: measures adapters.
        tracker: told of every reply, drop and figure.
        scalings: LoRA's s by module, for the record of what averaging factors loses.
        weights: ``(num-rounds,)`` of the global adapter after each round; the result is their mean.
            None: it is the last one.

    Raises:
        ValueError: there is not one weight for each round.
    """

    def __init__(
        self,
        grid: Grid,
        peers: Sequence[Peer],
        strategy: FlowerStrategy,
        config: RunConfig,
        evaluation: Evaluation,
        tracker: Tracker,
        scalings: Mapping[str, float],
        weights: Tensor | None = None,
    ) -> None:
        self._grid = grid
        self._peers = peers
        self._strategy = strategy
        self._config = config
        self._evaluation = evaluation
        self._tracker = tracker
        self._scalings = scalings
        self._weights = None if weights is None else [float(weight) for weight in weights]
        if self._weights is not None and len(self._weights) != config.num_rounds:
            raise ValueError(
                f"round weights: expected {config.num_rounds}, found {len(self._weights)}"
            )
        if isinstance(strategy, Strategy):
            strategy.num_clients = len(peers)
            strategy.clients = [peer.client for peer in peers]
            strategy.client_ranks = {p.client: p.hello.rank for p in peers if p.hello.rank}

    def run(self, adapter: Adapter) -> Adapter:
        """Run ``num-rounds`` rounds from ``adapter`` and return the last global adapter.

        With weights it is replaced, before it is measured, by the mean over all rounds.

        Raises:
            UserError: the strategy cannot work with this adapter or these clients' ranks.
        """
        if isinstance(self._strategy, Strategy):
            self._strategy.check(adapter)
        last = self._config.num_rounds
        mean = WeightedMean()
        for server_round in range(1, last + 1):
            adapter = self._train(server_round, adapter)
            if self._weights is not None:
                mean.add(adapter, self._weights[server_round - 1])
                adapter = self._averaged(mean) if server_round == last else adapter
            if server_round % self._config.eval_every == 0 or server_round == last:
                self._evaluation.measure(server_round, adapter)
        return adapter

    def _averaged(self, mean: WeightedMean) -> Adapter:
        """Return the mean of all rounds' global adapters and put it on record."""
        adapter = mean.result()
        weights = [round(weight, 6) for weight in self._weights or ()]
        self._tracker.log("averaged", weights=weights, **scale_figures(adapter))
        return adapter

    def _train(self, server_round: int, adapter: Adapter) -> Adapter:
        """Run one round of training; the adapter is kept where too few replies are usable."""
        started = time.monotonic()
        config = self._config
        chosen = sample(
            self._peers, config.fraction_train, config.min_train_clients, config.seed, server_round
        )
        self._tracker.log(
            "round-start", round=server_round, clients=[peer.client for peer in chosen]
        )
        view = ChosenGrid(self._grid, {peer.node: peer.client for peer in chosen})
        messages = list(
            self._strategy.configure_train(
                server_round, ArrayRecord(adapter), ConfigRecord({}), view
            )
        )
        traffic = Traffic()
        for message in messages:
            traffic.sent(message)
        diagnostics = LoraDiagnostics(self._scalings)
        usable = self._usable(server_round, messages, chosen, adapter, diagnostics, traffic)
        least = min(config.min_train_clients, len(chosen))
        first = list(islice(usable, least))
        if len(first) < least:
            self._tracker.log("adapter-kept", round=server_round, usable=len(first), expected=least)
            return adapter
        arrays, metrics = self._strategy.aggregate_train(
            server_round, self._ordered(chain(first, usable))
        )
        following = as_adapter(arrays.to_torch_state_dict()) if arrays else adapter
        reported = (metrics or {}).items()
        figures = {name: float(v) for name, v in reported if isinstance(v, int | float)}
        figures |= diagnostics.result(following)
        figures |= scale_figures(following)
        figures |= traffic.result()
        self._tracker.log(
            "round-end",
            round=server_round,
            duration=round(time.monotonic() - started, 3),
            loss=figures.get("loss"),
        )
        self._tracker.metrics(server_round, "training", figures)
        return following

    def _usable(
        self,
        server_round: int,
        messages: Iterable[Message],
        chosen: Sequence[Peer],
        adapter: Adapter,
        diagnostics: LoraDiagnostics,
        traffic: Traffic,
    ) -> Iterator[Message]:
        """Send, and yield the usable replies as they come; log each reply and each drop."""
        clients = {peer.node: peer.client for peer in chosen}
        silent = set(clients)

        def drop(lost: Drop) -> None:
            silent.discard(lost.node)
            client = clients.get(lost.node, lost.client)
            self._tracker.log("drop", round=server_round, client=client, reason=lost.reason)

        replies = receive(self._grid, messages, self._config.round_timeout)
        limit = self._config.max_update_norm or math.inf
        check = self._strategy.check_update if isinstance(self._strategy, Strategy) else None
        for message in usable_replies(replies, adapter, drop, max_norm=limit, check=check):
            silent.discard(message.metadata.src_node_id)
            self._tracker.log(
                "client",
                round=server_round,
                client=clients[message.metadata.src_node_id],
                **dict(message.content.metric_records[METRICS]),
            )
            diagnostics.add(decode_update(message))
            traffic.received(message)
            yield message
        for node in sorted(silent):
            drop(Drop(clients[node], node, f"no reply in {self._config.round_timeout:g} s"))

    def _ordered(self, replies: Iterator[Message]) -> Iterable[Message]:
        """Let ours stream; Flower's own strategies get a list in the order of the clients.

        Their float32 sums depend on the order, ours do not.
        """
        if isinstance(self._strategy, Strategy):
            return replies
        rank = {peer.node: index for index, peer in enumerate(self._peers)}
        return sorted(replies, key=lambda message: rank[message.metadata.src_node_id])

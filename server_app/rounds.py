"""The round loop: sample, train, drop what is unusable, aggregate, measure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.methods.logit_scale import scale_figures
from fl2ora.experiment.config import RunConfig
from fl2ora.messages.receiving import receive
from fl2ora.messages.records import ARRAYS, AUX, CLIENT_RULE, CONFIG, METRICS, ROUND, TRAIN
from fl2ora.messages.replies import Drop, decode_update, usable_replies
from fl2ora.reporting.events import Tracker
from fl2ora.server_app.evaluation import Evaluation
from fl2ora.server_app.handshake import Peer
from fl2ora.server_app.lora_diagnostics import LoraDiagnostics
from fl2ora.server_app.ours_under_flower import Means
from fl2ora.server_app.sampling import sample
from fl2ora.server_app.traffic import Traffic
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.updates import ClientUpdate, WeightedMean


class Rounds:
    """Runs federated training.

    Args:
        grid: where the nodes are.
        peers: the nodes, sorted by client key.
        strategy: how updates are combined.
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
        strategy: Strategy,
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

    def run(self, adapter: Adapter) -> Adapter:
        """Run ``num-rounds`` rounds from ``adapter`` and return the last global adapter.

        With weights it is replaced, before it is measured, by the mean over all rounds.

        Raises:
            UserError: the strategy cannot work with this adapter or these clients' ranks.
        """
        clients = tuple(peer.client for peer in self._peers)
        ranks = {peer.client: peer.hello.rank for peer in self._peers if peer.hello.rank}
        self._strategy.begin(RunInfo(clients, adapter, ranks))
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
        plan = self._strategy.plan(server_round, adapter, [peer.client for peer in chosen])
        messages = [_train_message(plan, peer) for peer in chosen]
        traffic = Traffic()
        for message in messages:
            traffic.sent(message)
        diagnostics = LoraDiagnostics(self._scalings)
        usable = self._usable(plan, messages, chosen, diagnostics, traffic)
        least = max(min(config.min_train_clients, len(chosen)), self._strategy.least_updates)
        first = list(islice(usable, least))
        if len(first) < least:
            self._tracker.log("adapter-kept", round=server_round, usable=len(first), expected=least)
            return adapter
        means = Means()
        updates = means.watch(chain(first, usable))
        following = as_adapter(self._strategy.aggregate(plan, updates))
        figures = {**means.record(), **self._strategy.metrics()}
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
        plan: RoundPlan,
        messages: Sequence[Message],
        chosen: Sequence[Peer],
        diagnostics: LoraDiagnostics,
        traffic: Traffic,
    ) -> Iterator[ClientUpdate]:
        """Send, and yield the usable updates as they come; log each reply and each drop."""
        server_round = plan.round
        clients = {peer.node: peer.client for peer in chosen}
        silent = set(clients)

        def drop(lost: Drop) -> None:
            silent.discard(lost.node)
            client = clients.get(lost.node, lost.client)
            self._tracker.log("drop", round=server_round, client=client, reason=lost.reason)

        replies = receive(self._grid, messages, self._config.round_timeout)
        limit = self._config.max_update_norm or math.inf
        check = partial(self._strategy.check_update, plan)
        for message in usable_replies(replies, plan.current, drop, max_norm=limit, check=check):
            silent.discard(message.metadata.src_node_id)
            self._tracker.log(
                "client",
                round=server_round,
                client=clients[message.metadata.src_node_id],
                **dict(message.content.metric_records[METRICS]),
            )
            update = decode_update(message)
            diagnostics.add(update)
            traffic.received(message)
            yield update
        for node in sorted(silent):
            drop(Drop(clients[node], node, f"no reply in {self._config.round_timeout:g} s"))


def _train_message(plan: RoundPlan, peer: Peer) -> Message:
    content = RecordDict({ARRAYS: ArrayRecord(as_adapter(plan.start_of(peer.client)))})
    content[CONFIG] = ConfigRecord({ROUND: plan.round, CLIENT_RULE: plan.rule})
    if plan.aux:
        content[AUX] = ArrayRecord(as_adapter(plan.aux))
    return Message(content, dst_node_id=peer.node, message_type=TRAIN)

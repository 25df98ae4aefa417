"""The messages of one round of training, and what becomes of each reply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message

from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.messages.adapters import KnownStart
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.records import ARRAYS, AUX, UnusableMessageError, one_line
from fl2ora.messages.tensors import value_bytes
from fl2ora.messages.train import decode_update, encode_train
from fl2ora.server_app.compressing import build_compression
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.updates import ClientUpdate


class TrainingRound:
    """Encodes what a plan sends, decodes what comes back, and counts the bytes of both.

    Args:
        config: of the run.
        plan: of the round.
        strategy: that made it.
        images: how many each of its clients said it trains on.

    Attributes:
        bytes_down: of tensors sent to each client that was asked.
        bytes_up: of tensors in each usable reply.
    """

    def __init__(
        self, config: RunConfig, plan: RoundPlan, strategy: Strategy, images: Mapping[str, int]
    ) -> None:
        self._config, self._plan, self._strategy, self._images = config, plan, strategy, images
        self._compression = build_compression(config.compression)
        self.bytes_down: list[int] = []
        self.bytes_up: list[int] = []

    def messages(
        self, nodes: Mapping[int, str], lineage: Lineage, start: KnownStart
    ) -> Iterator[Message]:
        """Yield one message for each node; see ``encode_train``."""
        spec = "" if self._compression is None else self._config.compression
        rounds, settings = self._config.num_rounds, lineage.settings()
        encoded = encode_train(self._plan, nodes, rounds, settings, start, spec)
        for message in _blamed(self._strategy, encoded):
            self.bytes_down.append(_bytes_of(message))
            yield message

    def update(self, reply: Message, client: str) -> ClientUpdate:
        """Return the update in a client's reply.

        Raises:
            UnusableMessageError: see ``decode_update``; or the strategy cannot use it.
        """
        sent, limit = self._plan.start_of(client), self._config.max_update_norm or math.inf
        images = self._images[client]
        update = decode_update(reply, client, sent, limit, images, self._compression)
        reason = self._refusal(update)
        if reason is not None:
            raise UnusableMessageError(reason)
        self.bytes_up.append(_bytes_of(reply))
        return update

    def _refusal(self, update: ClientUpdate) -> str | None:
        """Return why the strategy cannot use an update; None if it can."""
        with blaming(self._strategy):
            try:
                self._strategy.check_update(self._plan, update)
            except (ValueError, KeyError) as error:
                return one_line(error)
        return None


def _bytes_of(message: Message) -> int:
    records = message.content.array_records
    return value_bytes(records.get(ARRAYS), records.get(AUX))


def _blamed(strategy: Strategy, messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages that are made of what a strategy returned."""
    with blaming(strategy):
        yield from messages

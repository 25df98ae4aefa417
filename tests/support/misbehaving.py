"""ClientApps that do something wrong, wrapped around the real one."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl2ora.client_app.app import app as real_client_app
from fl2ora.client_app.app import node_of
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.messages.train import decode_train

Alter = Callable[[Message, Context, Message], Message]


class Wrapped(ClientApp):
    """Passes every message to the real ClientApp and lets ``alter`` change the reply.

    ``alter(message, context, reply)`` returns the reply to send, or raises.
    ``received`` and ``replied`` keep what passed, as ``(node, type, content)``.
    """

    def __init__(self, alter: Alter | None = None) -> None:
        super().__init__()
        self._alter = alter
        self.received: list[tuple[int, Message]] = []
        self.replied: list[tuple[int, Message]] = []
        self._contexts: dict[int, Context] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        self.received.append((context.node_id, message))
        self._contexts[context.node_id] = context
        reply = real_client_app(message, context)
        if self._alter is not None:
            reply = self._alter(message, context, reply)
        self.replied.append((context.node_id, reply))
        return reply

    def of(self, kind: str) -> list[tuple[int, Message]]:
        """Return the messages of one type that were received, in order."""
        return [(n, m) for n, m in self.received if m.metadata.message_type == kind]

    def started(self) -> list[Adapter]:
        """Return the adapters of all train messages as their nodes fill them in, in order."""
        return [
            decode_train(message, node_of(self._contexts[node], message).initial).adapter
            for node, message in self.of("train")
        ]

    def replies_to(self, kind: str) -> list[tuple[int, Message]]:
        """Return the replies to one type of message, in order."""
        return [(n, m) for n, m in self.replied if m.metadata.message_type == kind]

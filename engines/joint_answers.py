"""The replies of several nodes that are trained at once."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Context, Message

from fl2ora.client_app import joint_tasks
from fl2ora.client_app.app import node_of
from fl2ora.client_app.joint_tasks import Client
from fl2ora.client_app.state import ClientState
from fl2ora.engines.answering import refusal
from fl2ora.messages.train import decode_train, encode_update


def answered_jointly(asked: Sequence[tuple[Message, Context]]) -> list[Message]:
    """Answer messages to train as the ClientApp does, with the clients' batches computed as one.

    Args:
        asked: at least one message, each with the context of its node; all nodes are of one run
            and compute on one device.

    Returns:
        For each message the reply, which may say what was raised.
    """
    clients: list[Client | Exception] = []
    for message, context in asked:
        try:
            clients.append(_client(message, context))
        except Exception as error:
            clients.append(error)
    usable = [client for client in clients if isinstance(client, Client)]
    updates = iter(joint_tasks.train(usable) if usable else [])
    replies = []
    for (message, _), client in zip(asked, clients, strict=True):
        if isinstance(client, Exception):
            replies.append(refusal(message, client))
        elif isinstance(update := next(updates), Exception):
            replies.append(refusal(message, update))
        else:
            replies.append(encode_update(message, update, client.task, client.kept.place))
    return replies


def _client(message: Message, context: Context) -> Client:
    node = node_of(context, message)
    task = decode_train(message, node.initial)
    return Client(node, ClientState(context, node.key, task.lineage), task)

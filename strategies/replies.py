"""Which replies to a train message can be used, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from torch import Tensor

from clip_tuning.adapter import Adapter, AdapterError, as_adapter, check_finite, check_like
from experiment.messages import ARRAYS, AUX, EXAMPLES, METRICS, client_of
from strategies.updates import ClientUpdate


@dataclass(frozen=True)
class Drop:
    """A reply that was not used.

    Attributes:
        client: key of the client, or its node id where the reply does not say.
        node: Flower's node id.
        reason: one line.
    """

    client: str
    node: int
    reason: str


def usable_replies(
    replies: Iterable[Message], expected: Mapping[str, Tensor], on_drop: Callable[[Drop], None]
) -> Iterator[Message]:
    """Yield the replies that hold a sound update, as they come; report each other one.

    Dropped are errors, missing records, other names or shapes than ``expected``, values that are
    not finite, no examples, and a second reply from the same node.
    """
    seen: set[int] = set()
    for message in replies:
        node = message.metadata.src_node_id
        problem = "second reply in one round" if node in seen else _problem(message, expected)
        if problem:
            on_drop(Drop(client_of(message), node, problem))
        else:
            seen.add(node)
            yield message


def decode_update(message: Message) -> ClientUpdate:
    """Turn a usable reply into a ``ClientUpdate``."""
    content = message.content
    metrics = content.metric_records[METRICS]
    aux = content.array_records.get(AUX)
    return ClientUpdate(
        client=client_of(message),
        adapter=_adapter(message),
        num_examples=int(_number(metrics[EXAMPLES])),
        metrics={name: _number(value) for name, value in metrics.items() if name != EXAMPLES},
        aux=dict(aux.to_torch_state_dict()) if aux is not None else {},
    )


def error_reason(message: Message) -> str:
    """Return one line for a failed reply; a Ray traceback is cut to its last line."""
    lines = [line.strip() for line in (message.error.reason or "").splitlines() if line.strip()]
    return lines[-1] if lines else f"error code {message.error.code}"


def _problem(message: Message, expected: Mapping[str, Tensor]) -> str | None:
    if message.has_error():
        return error_reason(message)
    content = message.content
    if ARRAYS not in content.array_records or METRICS not in content.metric_records:
        return f"expected records {ARRAYS!r} and {METRICS!r}, found {sorted(content)}"
    examples = content.metric_records[METRICS].get(EXAMPLES)
    if not isinstance(examples, (int, float)) or not 0 < examples < math.inf:
        return f"{EXAMPLES}: expected a finite number above 0, found {examples}"
    try:
        adapter = _adapter(message)
        check_like(adapter, expected, "update")
        check_finite(adapter, "update")
    except (AdapterError, ValueError, TypeError) as error:
        return str(error)
    return None


def _adapter(message: Message) -> Adapter:
    return as_adapter(message.content.array_records[ARRAYS].to_torch_state_dict())


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"expected one number, found {value!r}")
    return value

"""Which replies to a train message can be used, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, as_adapter, check_finite, check_like
from fl2ora.messages.records import ARRAYS, AUX, EXAMPLES, METRICS, client_of
from fl2ora.strategies.updates import ClientUpdate


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
    replies: Iterable[Message],
    expected: Mapping[str, Tensor],
    on_drop: Callable[[Drop], None],
    *,
    max_norm: float = math.inf,
    check: Callable[[ClientUpdate], None] | None = None,
) -> Iterator[Message]:
    """Yield the replies that hold a sound update, as they come; report each other one.

    Dropped are errors, missing records, other names or shapes than ``expected``, values that are
    not finite, no examples, and a second reply from the same node.

    Args:
        replies: to a round's train messages.
        expected: the adapter the clients started from.
        on_drop: told of every reply that is not used.
        max_norm: largest L2 norm of the change from ``expected``, over all tensors together.
        check: raises a ValueError for an update the strategy cannot use.
    """
    seen: set[int] = set()
    for message in replies:
        node = message.metadata.src_node_id
        problem = "second reply in one round" if node in seen else None
        problem = problem or _problem(message, expected, max_norm, check)
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


def _problem(
    message: Message,
    expected: Mapping[str, Tensor],
    max_norm: float,
    check: Callable[[ClientUpdate], None] | None,
) -> str | None:
    """Return why a reply cannot be used, None if it can."""
    if message.has_error():
        return error_reason(message)
    content = message.content
    if ARRAYS not in content.array_records or METRICS not in content.metric_records:
        return f"expected records {ARRAYS!r} and {METRICS!r}, found {sorted(content)}"
    examples = content.metric_records[METRICS].get(EXAMPLES)
    if not isinstance(examples, (int, float)) or not 0 < examples < math.inf:
        return f"{EXAMPLES}: expected a finite number above 0, found {examples}"
    try:
        update = decode_update(message)
        check_like(update.adapter, expected, "update")
        check_finite(update.adapter, "update")
        check_finite(update.aux, "aux")
        _check_norm(update.adapter, expected, max_norm)
        if check is not None:
            check(update)
    except (AdapterError, ValueError, TypeError) as error:
        return str(error)
    return None


def _check_norm(adapter: Adapter, start: Mapping[str, Tensor], limit: float) -> None:
    """Refuse an adapter whose L2 distance from ``start``, over all tensors, exceeds ``limit``."""
    if limit == math.inf:
        return
    squares = [
        float((tensor.double() - start[name].double()).square().sum())
        for name, tensor in adapter.items()
    ]
    norm = math.sqrt(math.fsum(squares))
    if norm > limit:
        raise ValueError(f"update: norm {norm:.6g} of its change exceeds the limit {limit:.6g}")


def _adapter(message: Message) -> Adapter:
    return as_adapter(message.content.array_records[ARRAYS].to_torch_state_dict())


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"expected one number, found {value!r}")
    return value

"""A round of training: the adapter goes to a node, its update comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, changes, check_finite, check_like
from fl2ora.experiment.config import Value
from fl2ora.messages.adapters import KnownStart, Outgoing, decode_adapter, padded, trimmed
from fl2ora.messages.compressed import tensors_of, unpack
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.records import (
    ARRAYS,
    AUX,
    CHANGES_ONLY,
    CLIENT_RULE,
    COMPRESSION,
    CONFIG,
    CUT,
    EXAMPLES,
    METRICS,
    NUM_ROUNDS,
    REPLY,
    ROUND,
    TRAIN,
    UNCHANGED,
    UnusableMessageError,
    one_line,
    refuse_error,
    reply_record,
)
from fl2ora.messages.tensors import decode_tensors, encode_parts, encode_tensors
from fl2ora.messages.update_bounds import finite_metrics, refuse_far, refuse_large
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.compression.base import Compression
from fl2ora.strategies.updates import ClientUpdate

DISK, MEMORY = "disk", "memory"
"""Where a client keeps what it must remember until the next round."""

_KEPT = "kept"


@dataclass(frozen=True)
class TrainTask:
    """What a node is asked to do in a round.

    Attributes:
        adapter: to start from.
        aux: further tensors for the client rule.
        rule: spec of the client rule; empty: plain local training.
        round: from 1.
        num_rounds: of the run, which a learning-rate schedule needs.
        lineage: what of the node's memory counts.
        changes_only: the server fills in what a reply leaves out because training left it as it
            was; Flower's own strategies need all of it.
        compression: spec of how changes are sent; empty: the adapter is.
    """

    adapter: Adapter
    aux: Adapter = field(default_factory=dict)
    rule: str = ""
    round: int = 1
    num_rounds: int = 1
    lineage: Lineage = field(default_factory=Lineage)
    changes_only: bool = False
    compression: str = ""


def encode_train(
    plan: RoundPlan,
    nodes: Mapping[int, str],
    num_rounds: int,
    settings: Mapping[str, Value] | None = None,
    start: KnownStart | None = None,
    compression: str = "",
) -> Iterator[Message]:
    """Yield one message for each node of a round; what all are sent is encoded once.

    Args:
        plan: of the round.
        nodes: client keys by node id.
        num_rounds: of the run.
        settings: further ones, sent as they are.
        start: what need not be sent; see ``Outgoing``.
        compression: spec of how clients are to send their changes; empty: not at all.
    """
    shared = Outgoing(plan.current, start)
    aux = encode_tensors(plan.aux) if plan.aux else None
    own: dict[str, Value] = {
        ROUND: plan.round,
        NUM_ROUNDS: num_rounds,
        CLIENT_RULE: plan.rule,
        CHANGES_ONLY: True,
        COMPRESSION: compression,
    }
    for node, client in nodes.items():
        begins = plan.start_of(client)
        outgoing = shared if begins is plan.current else Outgoing(begins, start)
        arrays, said = outgoing.to(node)
        records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            ARRAYS: arrays,
            CONFIG: ConfigRecord({**(settings or {}), **own, **said}),
        }
        if aux is not None:
            records[AUX] = aux
        yield Message(RecordDict(records), dst_node_id=node, message_type=TRAIN)


def decode_train(message: Message, initial: Callable[[], Adapter] | None = None) -> TrainTask:
    """Return what a node is asked to do.

    Flower's own FedProx only sends its mu, and its FedAdam and others go on in float64.

    Args:
        message: to the node.
        initial: see ``decode_adapter``.

    Raises:
        UnusableMessageError: it cannot be read.
    """
    content = message.content
    settings = content.config_records[CONFIG]
    rule = str(settings.get(CLIENT_RULE, ""))
    if not rule and "proximal-mu" in settings:
        rule = f"fedprox(mu={settings['proximal-mu']!r})"
    aux = content.array_records.get(AUX)
    server_round = int(settings[ROUND])  # type: ignore[arg-type]
    return TrainTask(
        decode_adapter(content, initial),
        decode_tensors(aux, AUX) if aux is not None else {},
        rule,
        server_round,
        int(settings.get(NUM_ROUNDS, server_round)),  # type: ignore[arg-type]
        Lineage.from_settings(settings),
        settings.get(CHANGES_ONLY) is True,
        str(settings.get(COMPRESSION, "")),
    )


def encode_update(
    message: Message, update: ClientUpdate, task: TrainTask | None = None, kept: str = ""
) -> Message:
    """Return a node's reply, with what changed alone if the task says so.

    Args:
        message: replied to.
        update: of the client.
        task: that it answers.
        kept: ``DISK`` or ``MEMORY``; empty where it has nothing to remember.
    """
    changed, cut = update.adapter, 0
    if task is not None and task.compression:
        arrays, sent = encode_parts(update.packed), len(tensors_of(update.packed))
    else:
        if task is not None and task.changes_only:
            changed, cut = trimmed(changes(update.adapter, task.adapter))
        arrays, sent = encode_tensors(changed), len(changed)
    reply = reply_record(update.client)
    reply[UNCHANGED], reply[CUT] = len(update.adapter) - sent, cut
    reply[_KEPT] = kept
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        ARRAYS: arrays,
        METRICS: MetricRecord({**update.metrics, EXAMPLES: update.num_examples}),
        REPLY: reply,
    }
    if update.aux:
        records[AUX] = encode_tensors(update.aux)
    return Message(RecordDict(records), reply_to=message)


def kept_in(reply: Message) -> str:
    """Return where the client of a usable reply keeps its state, as far as it says."""
    record = reply.content.config_records.get(REPLY)
    return "" if record is None else one_line(record.get(_KEPT, ""))


def decode_update(
    reply: Message,
    client: str,
    sent: Mapping[str, Tensor],
    max_norm: float = math.inf,
    images: int | None = None,
    compression: Compression | None = None,
) -> ClientUpdate:
    """Return the update in a reply, decoded and checked once.

    Args:
        reply: to a train message.
        client: key of the client that the message went to.
        sent: the adapter that this client was sent.
        max_norm: largest L2 norm of its change, over all tensors together.
        images: how many it said it trains on; None where it did not say.
        compression: in whose parts the change is to come; None: the adapter is.

    Raises:
        UnusableMessageError: an error, missing records, other names, shapes or types than ``sent``,
            values that are not finite, metrics that are no finite numbers, another number of
            examples than it has, too large a change, or more beside it than client halves send.
    """
    refuse_error(reply)
    content = reply.content
    if ARRAYS not in content.array_records or METRICS not in content.metric_records:
        found = one_line(sorted(map(str, content)))
        raise UnusableMessageError(f"expected records {ARRAYS!r} and {METRICS!r}, found {found}")
    metrics = finite_metrics(content.metric_records[METRICS])
    examples = metrics.pop(EXAMPLES, math.nan)
    if not (examples >= 1 and examples == int(examples)):
        raise UnusableMessageError(
            f"{EXAMPLES}: expected a whole number above 0, found {examples:g}"
        )
    if images is not None and examples != images:
        raise UnusableMessageError(f"{EXAMPLES}: expected {images}, found {examples:.0f}")
    arrays = content.array_records[ARRAYS]
    if compression is None:
        changed = decode_tensors(arrays, "update")
    else:
        moved = unpack(arrays, sent, compression)
        changed = {name: (sent[name].double() + moved[name].double()).float() for name in moved}
    adapter = _whole(changed, content, sent)
    aux_record = content.array_records.get(AUX)
    if aux_record is not None:
        refuse_large(aux_record, sent)
    aux = decode_tensors(aux_record, AUX) if aux_record is not None else {}
    try:
        check_like(adapter, sent, "update")
        check_finite(adapter, "update")
        check_finite(aux, AUX)
    except AdapterError as error:
        raise UnusableMessageError(one_line(error)) from None
    refuse_far(adapter, sent, max_norm)
    return ClientUpdate(client, adapter, int(examples), metrics, aux)


def _whole(changed: Adapter, content: RecordDict, sent: Mapping[str, Tensor]) -> Adapter:
    """Return an update with what it left out, if that is as much as it says it left out."""
    reply = content.config_records.get(REPLY, ConfigRecord())
    changed = padded(changed, sent, reply.get(CUT))
    left_out = sent.keys() - changed.keys()
    if reply.get(UNCHANGED) != len(left_out):
        return changed  # what is missing is refused like any other wrong name
    filled = {**changed, **{name: sent[name].clone() for name in left_out}}
    return {name: filled[name] for name in sorted(filled)}

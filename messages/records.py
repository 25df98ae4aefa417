"""What travels between server and nodes, and under which names.

========================  =============================  =====================================
message type              server -> node                 node -> server
========================  =============================  =====================================
``query.hello``           ``config``                     ``hello`` (see ``Hello``)
``train``                 ``arrays``, ``config``, aux    ``arrays``, ``metrics``, ``reply``, aux
``evaluate``              ``arrays``, ``config``         ``metrics``, ``reply``
``train.calibrate``       ``arrays``, ``config``,        ``sums`` (float64), ``reply``
                          ``parameters`` (float64)
========================  =============================  =====================================

``arrays`` is the adapter (float32, sorted names). ``aux`` is sent only by strategies that ask for
it, because Flower's own strategies expect just one ArrayRecord in a reply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl2ora.experiment.config import Value

HELLO = "query.hello"
TRAIN = "train"
EVALUATE = "evaluate"
CALIBRATE = "train.calibrate"

ARRAYS, AUX, CONFIG, METRICS, REPLY = "arrays", "aux", "config", "metrics", "reply"
PARAMETERS, SUMS, CALIBRATOR = "parameters", "sums", "calibrator"
PERSONAL = "personal"
ROUND, CLIENT_RULE, EXAMPLES, CLIENT = "server-round", "client-rule", "num-examples", "client"


@dataclass(frozen=True)
class Hello:
    """What a node says of itself before the first round.

    Attributes:
        client: key that stays the same between rounds and runs.
        source: ``partition`` of the run's dataset, or the node's ``own`` data.
        partition: index of the share it holds, -1 with own data.
        num_partitions: how many shares there are, 0 with own data.
        num_train: images it trains on.
        num_test: images it measures on.
        device: where it computes.
        fingerprint: of its code.
        code_root: where that code lies.
        versions: JSON of its libraries' versions.
        classes: JSON of its class names in label order.
        rank: of LoRA on this node, where its config sets one, else 0.
        problem: why it cannot take part, or empty.
    """

    client: str
    source: str = "own"
    partition: int = -1
    num_partitions: int = 0
    num_train: int = 0
    num_test: int = 0
    device: str = ""
    fingerprint: str = ""
    code_root: str = ""
    versions: str = "{}"
    classes: str = "[]"
    rank: int = 0
    problem: str = ""

    def to_content(self) -> RecordDict:
        """Encode as a reply's content."""
        return RecordDict({"hello": ConfigRecord(asdict(self))})

    @classmethod
    def from_content(cls, content: RecordDict) -> Hello:
        """Decode a reply's content; keys an older or newer node lacks or adds are let through."""
        record = content.config_records["hello"]
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})  # type: ignore[arg-type]

    @property
    def library_versions(self) -> dict[str, str]:
        """The libraries' versions by name."""
        return {str(k): str(v) for k, v in json.loads(self.versions).items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes in label order."""
        return tuple(str(name) for name in json.loads(self.classes))


def metrics_record(metrics: Mapping[str, float]) -> MetricRecord:
    """Encode scalar metrics."""
    return MetricRecord(dict(metrics))


def config_record(values: Mapping[str, Value]) -> ConfigRecord:
    """Encode settings."""
    return ConfigRecord(dict(values))


def train_reply(
    message: Message,
    arrays: ArrayRecord,
    metrics: Mapping[str, float],
    client: str,
    aux: ArrayRecord | None = None,
) -> Message:
    """Answer a ``train`` message."""
    content = RecordDict(
        {
            ARRAYS: arrays,
            METRICS: metrics_record(metrics),
            REPLY: ConfigRecord({CLIENT: client}),
        }
    )
    if aux is not None:
        content[AUX] = aux
    return Message(content, reply_to=message)


def client_of(message: Message) -> str:
    """Return the client key a reply carries, or the node id where there is none."""
    if message.has_content() and REPLY in message.content.config_records:
        return str(message.content.config_records[REPLY].get(CLIENT, message.metadata.src_node_id))
    return str(message.metadata.src_node_id)

"""The ClientApp: decode a message, call one function, encode the reply."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.losses._weighted_sum import WeightedSum
from fl2ora.calibration.losses.base import Loss
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.client_app.calibrator_sums import calibration_sums, evaluate_calibrated
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.client_app.node import Node
from fl2ora.client_app.state import ClientState
from fl2ora.client_app.training import LocalTrainer, TrainingSettings
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.experiment.spec import parse_sum
from fl2ora.messages.pooled import encode_stats
from fl2ora.messages.records import (
    ARRAYS,
    AUX,
    CALIBRATOR,
    CLIENT,
    CLIENT_RULE,
    CONFIG,
    EXAMPLES,
    METRICS,
    PARAMETERS,
    PERSONAL,
    REPLY,
    ROUND,
    SUMS,
    Hello,
    train_reply,
)  # fmt: skip
from fl2ora.strategies.client_rule import ClientRule

app = ClientApp()

_STATE, _RECEIVED, _PERSONAL = "client-rule", "received", "personal"


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this node is and what it runs, before anything is trained."""
    try:
        node = _node(context)
        data = node.data
        node.check_views()
        answer = Hello(
            node.key,
            source="own" if node.partition is None else "partition",
            partition=-1 if node.partition is None else node.partition,
            num_partitions=node.num_partitions,
            num_train=len(data.train),
            num_test=len(data.test),
            device=str(node.device),
            classes=json.dumps(node.federation.class_names),
            rank=_rank(context),
        )
    except UserError as error:
        known = context.node_config
        name = known.get("site", known.get("partition-id", f"node-{context.node_id}"))
        answer = Hello(str(name), problem=str(error))
    answer = replace(
        answer,
        fingerprint=code_fingerprint(),
        code_root=str(code_root()),
        versions=json.dumps(library_versions()),
    )
    return Message(answer.to_content(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received adapter on this node's images."""
    node = _node(context)
    settings = message.content.config_records[CONFIG]
    server_round = int(settings[ROUND])  # type: ignore[arg-type]
    classifier = node.classifier()
    received = _adapter(message, ARRAYS)
    classifier.restore(received)
    kept = ClientState(context, node.key)
    trainer = LocalTrainer(
        classifier,
        _training_settings(node.config),
        build_loss(node.config.loss),
        _rule(settings),
        node.reference,
        lambda: node.begun("train"),
    )
    with classifier.as_client(kept.load(_PERSONAL)):
        update, state = trainer.run(
            node.data.train,
            client=node.key,
            seed=derive_seed(node.config.seed, "client", node.key, server_round),
            aux=_adapter(message, AUX),
            state=kept.load(_STATE),
            previous=kept.load(_RECEIVED),
        )
        personal = classifier.export_personal()
    # Last, because a deployment keeps whatever was changed before an error.
    if personal:
        kept.keep(_PERSONAL, personal)
    if state:
        kept.keep(_STATE, state)
    if "update_similarity" in trainer.loss.needs:
        kept.keep(_RECEIVED, received)
    return train_reply(
        message,
        ArrayRecord(update.adapter),
        {**update.metrics, EXAMPLES: update.num_examples},
        node.key,
        ArrayRecord(update.aux) if update.aux else None,
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the received adapter on this node's held-out images.

    In round 0 that is zero-shot CLIP; with a calibrator, what it makes of the adapter's logits. On
    request the node's own model is measured too: the adapter with what the node keeps to itself.
    """
    node = _node(context)
    settings = message.content.config_records[CONFIG]
    classifier = node.classifier() if settings[ROUND] else node.zero_shot_classifier()
    classifier.restore(_adapter(message, ARRAYS))
    metrics = chosen_metrics(node.config.metrics)
    spec = spec_for(metrics, node.config.num_bins, len(node.federation.class_names))
    data, batch = node.data.test, node.config.eval_batch_size
    begun = node.begun("test") if settings[ROUND] else None
    if CALIBRATOR in settings:
        stats = evaluate_calibrated(
            load(str(settings[CALIBRATOR]), Calibrator),
            _tensors(message.content, PARAMETERS),
            classifier,
            node.zero_shot_classifier,
            data,
            spec,
            batch,
            begun,
        )
    else:
        stats = local_evaluate(classifier, data, spec, batch, begun)
    content = RecordDict({METRICS: encode_stats(stats), REPLY: ConfigRecord({CLIENT: node.key})})
    if settings.get(PERSONAL):
        with classifier.as_client(ClientState(context, node.key).load(_PERSONAL)):
            own = local_evaluate(classifier, data, spec, batch, begun)
        content[PERSONAL] = encode_stats(own)
    return Message(content, reply_to=message)


@app.train("calibrate")
def calibrate(message: Message, context: Context) -> Message:
    """Sum what a post-hoc calibrator asks for over this node's calibration images."""
    node = _node(context)
    data = node.data.calibration
    batch = node.config.eval_batch_size
    classifier = node.classifier()
    classifier.restore(_adapter(message, ARRAYS))
    sums = calibration_sums(
        load(str(message.content.config_records[CONFIG][CALIBRATOR]), Calibrator),
        _tensors(message.content, PARAMETERS),
        predict(classifier, data.images, batch, node.begun("calibration")),
        data.labels,
        lambda: predict(node.zero_shot_classifier(), data.images, batch),
    )
    content = RecordDict({SUMS: ArrayRecord(sums), REPLY: ConfigRecord({CLIENT: node.key})})
    return Message(content, reply_to=message)


def build_loss(text: str) -> Loss:
    """Return the loss a run config's ``loss`` describes, such as ``cross_entropy + 10*dca``."""
    terms = [(weight, load(spec, Loss)) for weight, spec in parse_sum(text)]
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else WeightedSum(terms)


def _node(context: Context) -> Node:
    node = Node.from_configs(context.run_config, context.node_config, context.node_id)
    torch.set_num_threads(node.config.threads)
    return node


def _rank(context: Context) -> int:
    rank = context.node_config.get("rank", 0)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise UserError(f"node config: rank: expected a whole number of at least 0, found {rank!r}")
    return rank


def _rule(settings: ConfigRecord) -> ClientRule:
    """Return the client half the server asks for; Flower's own FedProx only sends its mu."""
    spec = str(settings.get(CLIENT_RULE, ""))
    if not spec and "proximal-mu" in settings:
        spec = f"fedprox(mu={settings['proximal-mu']!r})"
    return load(spec, ClientRule) if spec else ClientRule()


def _training_settings(config: RunConfig) -> TrainingSettings:
    return TrainingSettings(
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        augmentation=config.augmentation,  # type: ignore[arg-type]
        precision=config.precision,
    )


def _adapter(message: Message, name: str) -> Adapter:
    return _tensors(message.content, name)


def _tensors(records: RecordDict, name: str) -> Adapter:
    record = records.array_records.get(name)
    return dict(record.to_torch_state_dict()) if record is not None else {}

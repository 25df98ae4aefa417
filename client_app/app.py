"""The ClientApp: decode a message, call one function, encode the reply."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl2ora.client_app import tasks
from fl2ora.client_app.node import Node
from fl2ora.client_app.node_config import node_name
from fl2ora.client_app.state import ClientState
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, code_root, library_versions
from fl2ora.messages.calibrate import decode_calibrate, encode_sums
from fl2ora.messages.digests import decode_left_out, decode_salt, encode_digests
from fl2ora.messages.evaluate import decode_evaluate, encode_measured
from fl2ora.messages.hello import NodeInfo, encode_hello
from fl2ora.messages.label_space import decode_classes
from fl2ora.messages.packing import packed_both_ways
from fl2ora.messages.train import decode_train, encode_update

app = ClientApp(mods=[packed_both_ways])


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this node is and what it runs, before anything is trained."""
    try:
        info = tasks.describe(node_of(context, message))
    except UserError as error:
        info = NodeInfo(node_name(context.node_config, context.node_id), problem=str(error))
    info = replace(
        info,
        fingerprint=code_fingerprint(),
        code_root=str(code_root()),
        versions=tuple(library_versions().items()),
    )
    return encode_hello(message, info)


@app.query("digests")
def digests(message: Message, context: Context) -> Message:
    """Give salted digests of this node's images, unless its config says not to."""
    node = node_of(context, message)
    return encode_digests(message, node.key, tasks.digests(node, decode_salt(message)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received adapter on this node's images."""
    node = node_of(context, message)
    task = decode_train(message, node.initial)
    kept = ClientState(context, node.key, task.lineage)
    update = tasks.train(node, kept, task)
    return encode_update(message, update, task, kept.place)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the received adapter on this node's held-out images."""
    node = node_of(context, message)
    task = decode_evaluate(message, node.initial)
    measured = tasks.evaluate(node, ClientState(context, node.key, task.lineage), task)
    return encode_measured(message, node.key, measured)


@app.train("calibrate")
def calibrate(message: Message, context: Context) -> Message:
    """Sum what a post-hoc calibrator asks for over this node's calibration images."""
    node = node_of(context, message)
    task = decode_calibrate(message, node.initial)
    return encode_sums(message, node.key, tasks.calibrate(node, task))


def node_of(context: Context, message: Message) -> Node:
    """Return the node that a message came to, in the classes of the run; its threads are used."""
    node = Node.from_configs(context.run_config, context.node_config, context.node_id)
    use_processor(node.config.threads)
    return replace(node, classes=decode_classes(message), left_out=decode_left_out(message))

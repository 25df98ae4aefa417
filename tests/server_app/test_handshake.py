"""Nodes that cannot work together are refused before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from fl2ora.client_app.app import app as real_client_app
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.shares import load_federation
from fl2ora.server_app.handshake import natural_key, shake_hands
from misbehaving import Wrapped
from runs import SMALL, events, run_small


def saying(**fields: Any) -> Wrapped:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "query.hello" and context.node_id == 2:
            reply.content.config_records["node"].update(fields)
        return reply

    return Wrapped(alter)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"fingerprint": "0123456789abcdef", "code_root": "/elsewhere"},
            ["client 1", "0123456789abcdef at /elsewhere", "differs from the server's"],
        ),
        (
            {"versions": json.dumps([["torch", "1.0.0"], ["flwr", "1.0"]])},
            ["client 1: torch 1.0.0 differs", "client 1: flwr 1.0 differs"],
        ),
        ({"client": "0"}, ["client key '0' is used by 2 nodes"]),
        (
            {"class_names": '["cat", "dog"]'},
            [
                "its 2 classes differ from the server's 16: 'cat' is not among them",
                "it lacks 'circle'",
            ],
        ),
        ({"problem": "the disk is gone"}, ["client 1: the disk is gone"]),
        ({"partition": 99}, ["client 1: expected a share of the run's dataset", "99 of 3"]),
        ({"partition": -1}, ["client 1: expected a share of the run's dataset", "-1 of 3"]),
        ({"num_partitions": 10**9}, ["client 1: expected a share", "1 of 1000000000"]),
        ({"source": "elsewhere"}, ["client 1: expected own data or a partition", "'elsewhere'"]),
        ({"num_train": -1}, ["client '1': expected a key and counts of at least 0"]),
        ({"client": ""}, ["client '': expected a key and counts of at least 0"]),
        ({"num_train": 7}, ["client 1: its share has 7 training", "their data differ"]),
        (
            {"digests": json.dumps([["base weights", "0123456789abcdef"]])},
            [
                "client 1: base weights: expected the server's, digest ",
                "found 0123456789abcdef",
                "client 1: tokenizer: ",
                "client 1: preprocessing: ",
                "client 1: files of the method: ",
                "client 1: templates: ",
            ],
        ),
    ],
)
def test_a_node_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, Any], words: list[str]
) -> None:
    app = saying(**fields)
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, client_app=app)
    assert all(word in str(caught.value) for word in words)
    assert not app.of("train")
    assert events(tmp_path / "runs" / "run", "failed")[0]["kind"] == "UserError"


def test_torch_for_other_devices_and_other_pythons_may_work_together(tmp_path: Path) -> None:
    version = torch.__version__.partition("+")[0]
    app = saying(versions=json.dumps([["torch", f"{version}+cu999"], ["python", "3.0.1"]]))
    folder = run_small(tmp_path, client_app=app, num_rounds=0)
    assert events(folder, "finished")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_cuda_stops_before_training(tmp_path: Path) -> None:
    app = Wrapped()
    nodes = {index: {"device": "cuda"} for index in range(3)}
    with pytest.raises(UserError, match="clients 0, 1, 2: device 'cuda' was asked for") as caught:
        run_small(tmp_path, client_app=app, node_configs=nodes)
    assert str(caught.value).count("torch sees no CUDA device") == 1
    assert not app.of("train")


def test_more_nodes_than_asked_for_are_refused(tmp_path: Path) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match=r"num-clients: expected 2 nodes, found 3; set it to 3"):
        run_small(tmp_path, client_app=app, num_clients=2)
    assert not app.received


class OneLate(InProcessGrid):
    """Its last node is not there yet when it is first asked for its nodes."""

    asked = 0

    def get_node_ids(self) -> Iterable[int]:
        self.asked += 1
        nodes = list(super().get_node_ids())
        return nodes[:-1] if self.asked == 1 else nodes


def test_all_shares_that_the_nodes_speak_of_are_waited_for() -> None:
    config = RunConfig.from_flat({**SMALL, "num-clients": 0})
    grid = OneLate(real_client_app, config.flat(), 3)
    peers, _ = shake_hands(grid, config, load_federation(config.dataset, config.protocol))
    assert [peer.client for peer in peers] == ["0", "1", "2"]


def test_two_nodes_with_one_share_are_refused(tmp_path: Path) -> None:
    """What one holds out, the other would train on."""
    nodes = {0: {"site": "a"}, 1: {"site": "b", "partition-id": 0}}
    with pytest.raises(UserError, match=r"partition-id 0 is used by 2 nodes \(a, b\)"):
        run_small(tmp_path, node_configs=nodes)


def test_nodes_that_divide_the_data_differently_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 nodes say 3, 1 nodes say 4"):
        run_small(tmp_path, num_clients=3, node_configs={1: {"num-partitions": 4}})


def test_too_few_nodes_are_waited_for_and_then_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected 5 nodes, found 3 after 0\.6 s"):
        run_small(tmp_path, num_clients=5, start_timeout=0.6)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"partition-id": 7}, "partition-id in 0..2, found 7"),
        ({"device": "cdua"}, "did you mean 'cuda'"),
        ({"dataset": "shapse()"}, "did you mean 'shapes'"),
        ({"partition_id": 1}, "'partition_id': unknown key; did you mean 'partition-id'? (valid: "),
        ({"datasets": "shapes"}, "'datasets': unknown key; did you mean 'dataset'?"),
        ({"round-timeout": 5.0}, "'round-timeout': unknown key"),
        ({"partition-id": "two"}, "partition-id: expected a whole number from 0 to 1000000, found"),
        ({"partition-id": 1.5}, "partition-id: expected a whole number"),
        ({"partition-id": -1}, "partition-id: expected a whole number from 0"),
        ({"num-partitions": 0}, "num-partitions: expected a whole number from 1"),
        ({"num-partitions": True}, "num-partitions: expected a whole number from 1"),
        ({"rank": -2}, "rank: expected a whole number from 0"),
        ({"state-dir": "here"}, "state-dir: expected an absolute path, found 'here'"),
        ({"site": ""}, "site: expected a name of at most 100 signs"),
        ({"site": "a\x1b[31m"}, "site: expected a name of at most 100 signs"),
        ({"site": "x" * 200}, "site: expected a name of at most 100 signs"),
        ({"rank": "two", "sitte": "a"}, "'two'; 'sitte': unknown key; did you mean 'site'?"),
    ],
)
def test_a_wrong_node_config_is_named(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, node_configs={1: config})
    assert words in str(caught.value)


def test_a_node_whose_data_brings_other_templates_is_refused(tmp_path: Path) -> None:
    other = {1: {"dataset": "tiny_datasets:OtherTemplates()", "site": "b"}}
    with pytest.raises(UserError, match="client b: templates: expected the server's") as caught:
        run_small(tmp_path, node_configs=other)
    assert "weights" not in str(caught.value)


def test_clients_named_by_numbers_sort_by_value() -> None:
    assert sorted(["10", "b", "2", "a", "1"], key=natural_key) == ["1", "2", "10", "a", "b"]


def test_more_clients_cannot_be_needed_than_there_are(tmp_path: Path) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match=r"min-train-clients: expected at most 3, .* found 7"):
        run_small(tmp_path, client_app=app, min_train_clients=7)
    assert not app.of("train")


@pytest.mark.parametrize(
    ("clients", "names"),
    [(1, "client 0"), (3, "clients 0, 1, 2"), (9, "clients 0, 1, 2, 3, 4 and 4 more")],
)
def test_what_all_clients_have_amiss_is_told_once(tmp_path: Path, clients: int, names: str) -> None:
    partition = "dirichlet(minimum=1000)"
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, clients=clients, partition=partition)
    first, *lines = str(caught.value).splitlines()
    assert first == "the nodes cannot train together:"
    assert len(lines) == 1
    assert lines[0].startswith(f"  - {names}: partition {partition!r}: ")


@pytest.mark.parametrize("num_clients", [0, 3])
def test_a_client_that_is_named_takes_no_part_whatever_is_amiss_with_it(
    tmp_path: Path, num_clients: int
) -> None:
    app = saying(fingerprint="0123456789abcdef")
    folder = run_small(tmp_path, client_app=app, exclude=" 1 ", num_clients=num_clients)
    assert [node["client"] for node in events(folder, "nodes")[0]["nodes"]] == ["0", "2"]
    assert {node for node, _ in app.of("train")} == {1, 3}


@pytest.mark.parametrize(
    ("exclude", "clients", "words"),
    [
        ("1", 4, r"num-clients: expected 4 nodes, found 3 after 0\.6 s"),
        (
            "nobody",
            3,
            r"expected 2 nodes besides the 1 that exclude names, found 3; set num-clients to 4",
        ),
        (
            "0 + 1 + 2",
            3,
            r"exclude: expected fewer names than the 3 clients \(num-clients\), found 3",
        ),
        ("a + ", 3, r"exclude: .*names of clients joined by \+, found 'a \+ '"),
    ],
)
def test_those_left_out_are_counted_whether_they_are_there_or_not(
    tmp_path: Path, exclude: str, clients: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run_small(tmp_path, exclude=exclude, num_clients=clients, start_timeout=0.6)

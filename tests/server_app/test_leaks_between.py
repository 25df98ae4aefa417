"""Copies of one image on several nodes: found by salted digests, stopped, dropped or said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.salted import SaltedImages, salted, salted_images
from fl2ora.federated_data.shares import ClientData
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.own_parts import PartInfo
from fl2ora.server_app.leaks_between import _sampled, find_leaks
from misbehaving import Wrapped
from runs import events, final_adapter, run_small
from tiny_datasets import Numbered

ALL: dict[str, Any] = {
    "dataset": "none",
    "num_rounds": 1,
    "local_test_fraction": 0.0,
    "calibration_fraction": 0.0,
}
NUMBERS = st.lists(st.integers(0, 12), max_size=8)
HOLDERS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4)


def nodes(*arguments: str, **more: Any) -> dict[int, dict[str, Any]]:
    """Return the configs of nodes a, b, ..., each with numbered images of its own."""
    return {
        index: {"site": "abc"[index], "dataset": f"tiny_datasets:Numbered({text})", **more}
        for index, text in enumerate(arguments)
    }


# Node b trains on three images that node a tests on (200, 201, 202).
LEAKY = nodes("train=(0, 40), test=(200, 208)", "train=(163, 203), test=(240, 248)")


def held(lists: tuple[list[int], list[int], list[int]]) -> SaltedImages:
    return SaltedImages(*(np.sort(np.array(numbers, dtype=np.uint64)) for numbers in lists))


@given(HOLDERS, HOLDERS)
def test_copies_are_those_that_a_loop_over_all_pairs_finds(server: Any, own: Any) -> None:
    shares = {f"s{index}": held(lists) for index, lists in enumerate(server)}
    mine = {f"n{index}": held(lists) for index, lists in enumerate(own)}
    found = find_leaks(shares, mine)
    every = {**shares, **mine}
    wanted: dict[str, set[int]] = {}
    fitted: Counter[tuple[str, str, str]] = Counter()
    for here, images in every.items():
        for kind, other in (("train", "test"), ("train", "calibration"), ("calibration", "test")):
            elsewhere = [
                set(getattr(theirs, other).tolist())
                for there, theirs in every.items()
                if there != here and not (there in shares and here in shares)
            ]
            copies = [n for n in getattr(images, kind).tolist() if any(n in e for e in elsewhere)]
            if copies:
                wanted.setdefault(here, set()).update(copies)
                fitted[here, kind, other] += len(copies)
    assert {client: set(copies.tolist()) for client, copies in found.copies.items()} == wanted
    counted: Counter[tuple[str, str, str]] = Counter()
    for (client, kind, whose, other), count in found.counts.items():
        assert whose != client
        counted[client, kind, other] += count
    assert counted == fitted


def test_a_run_that_trains_on_another_nodes_test_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, 2, node_configs=LEAKY, **ALL)
    assert (
        "clients: client b trains on 3 images that client a holds out, byte by byte; "
        "on-leak='drop' trains without them"
    ) in str(caught.value)


def test_copies_are_reported_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = run_small(tmp_path, 2, node_configs=LEAKY, on_leak="report", **ALL)
    notes = [event["note"] for event in events(folder, "leak")]
    assert notes == ["client b trains on 3 images that client a holds out"]
    assert {e["client"]: e["num-examples"] for e in events(folder, "client")} == {"a": 40, "b": 40}


@pytest.mark.parametrize("method", ["lora", "task_res"])
def test_dropped_copies_are_as_if_they_had_never_been_there(tmp_path: Path, method: str) -> None:
    dropped = run_small(tmp_path / "a", 2, node_configs=LEAKY, on_leak="drop", method=method, **ALL)
    clean = nodes(
        "train=(0, 40), test=(200, 208)",
        "train=(163, 203), test=(240, 248), without=(200, 201, 202)",
    )
    expected = run_small(tmp_path / "b", 2, node_configs=clean, method=method, **ALL)
    assert {e["client"]: e["num-examples"] for e in events(dropped, "client")} == {"a": 40, "b": 37}
    for name, tensor in final_adapter(expected).items():
        assert torch.equal(final_adapter(dropped)[name], tensor), name
    notes = [event["note"] for event in events(dropped, "leak")]
    assert notes[-1] == "these are left out of training and calibration"


def test_shares_leave_out_what_a_node_holds_out(tmp_path: Path) -> None:
    """The server's data set is shared with client 0; node b tests on ten of its images."""
    configs: dict[int, dict[str, Any]] = {
        0: {"partition-id": 0, "num-partitions": 1},
        1: {"site": "b", "dataset": "tiny_datasets:Numbered(train=(100, 140), test=(30, 40))"},
    }
    settings = {**ALL, "dataset": "tiny_datasets:Numbered(train=(0, 40), test=(130, 140))"}
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, 2, node_configs=configs, **settings)
    assert "client 0 trains on 10 images that client b holds out" in str(caught.value)
    assert "client b trains on 10 images that the server holds out" in str(caught.value)
    folder = run_small(tmp_path / "d", 2, node_configs=configs, on_leak="drop", **settings)
    assert {e["client"]: e["num-examples"] for e in events(folder, "client")} == {"0": 30, "b": 30}


def test_calibration_images_are_left_out_too(tmp_path: Path) -> None:
    configs = nodes("train=(0, 40), test=(200, 208)", "train=(190, 230), test=(240, 248)")
    settings = {**ALL, "calibration_fraction": 0.5, "calibrator": "temperature"}
    folder = run_small(tmp_path, 2, node_configs=configs, on_leak="drop", **settings)
    sizes = {e["client"]: e["num-examples"] for e in events(folder, "client")}
    assert sizes["a"] == 20
    assert 12 <= sizes["b"] < 20
    assert sizes["b"] != 16, "another seed: as many copies in either part would show nothing"
    reasons = [event["reason"] for event in events(folder, "drop")]
    assert not [reason for reason in reasons if "calibration" in reason]


def test_a_node_that_keeps_its_digests_is_said_to_be_uncompared(tmp_path: Path) -> None:
    app = Wrapped()
    configs = {0: LEAKY[0], 1: {**LEAKY[1], "share-digests": False}}
    folder = run_small(tmp_path, 2, app, configs, **ALL)
    notes = [event["note"] for event in events(folder, "leak")]
    assert notes == ["the images of client b were not compared with others': no digests were given"]


def test_equal_training_images_of_two_nodes_are_only_said(tmp_path: Path) -> None:
    configs = nodes("train=(0, 40)", "train=(30, 70), test=(240, 248)")
    folder = run_small(tmp_path, 2, node_configs=configs, **ALL)
    notes = [event["note"] for event in events(folder, "leak")]
    assert notes == ["20 training images of nodes are training images elsewhere, too"]


def test_a_sample_is_the_same_copies_everywhere() -> None:
    """Of two nodes' 40 and 20 images, 20 are copies; each gives ten digests, the smallest."""
    salt, few = b"s" * 32, 10
    first, second = (Numbered(train=numbers).split("train") for numbers in ((0, 40), (0, 20)))
    empty = first.select(torch.arange(0))

    def given_away(images: Any) -> set[int]:
        data = ClientData(images, empty, empty)
        return set(salted_images(data, (), salt, few).train.tolist())

    smallest = np.sort(first.images.digests())
    kept = set(salted(smallest[:few], salt).tolist())
    assert given_away(first) == kept
    common = set(salted(second.images.digests(), salt).tolist()) & kept
    assert given_away(second) >= common
    assert common


def test_it_is_said_of_how_many_images_digests_were_given() -> None:
    three = np.arange(3, dtype=np.uint64)
    given = {name: SaltedImages(three, three[:0], three) for name in ("a", "b")}
    info = NodeInfo("a", num_train=3, num_test=1, parts=(PartInfo("new", 2),))
    more = NodeInfo("b", num_train=2000, num_test=3)
    assert list(_sampled({"a": info, "b": more}, given)) == [
        "of client b, 6 of 2,003 images were compared with others'"
    ]


def test_another_salt_gives_other_digests() -> None:
    found = Numbered().split("train").images.digests()
    one, other = (set(salted(found, salt * 32).tolist()) for salt in (b"a", b"b"))
    assert len(one) == len(other) == 40
    assert not one & other

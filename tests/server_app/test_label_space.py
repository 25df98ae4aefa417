"""Nodes with data of their own: other orders, other classes, and a server without any data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.clip_tuning.build import tuned_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.label_space import relabelled
from fl2ora.federated_data.protocols.base import HeldOutPart
from fl2ora.messages.hello import NodeInfo
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.label_space import run_classes, without_data
from misbehaving import Wrapped
from runs import events, final_adapter, run_small

SERVER = "tiny_datasets:Reordered()"


def own(*arguments: str) -> dict[int, dict[str, Any]]:
    """Return the configs of nodes a, b, ... with data of their own."""
    return {
        index: {"site": "ab"[index], "dataset": f"tiny_datasets:Reordered(seed={index}{text})"}
        for index, text in enumerate(arguments)
    }


def measured(folder: Path) -> pd.DataFrame:
    return metrics_table(folder).set_index(["round", "source"]).sort_index()


@pytest.mark.parametrize("method", ["lora", "linear_probe"])
def test_another_order_of_classes_changes_not_one_bit(tmp_path: Path, method: str) -> None:
    settings: dict[str, Any] = {"dataset": SERVER, "method": method, "calibrator": "vector"}
    plain = run_small(tmp_path / "plain", 2, node_configs=own("", ""), **settings)
    mixed = run_small(tmp_path / "mixed", 2, node_configs=own("", ", reverse=True"), **settings)
    for name, tensor in final_adapter(plain).items():
        assert torch.equal(final_adapter(mixed)[name], tensor), name
    found, expected = (measured(run).drop(columns="bytes_down") for run in (mixed, plain))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_only_nodes_with_another_order_are_told_the_runs(tmp_path: Path) -> None:
    app = Wrapped()
    configs = own("", ", reverse=True")
    run_small(tmp_path, 2, app, configs, dataset=SERVER, num_rounds=1, calibrator="temperature")
    told = {
        (kind, node): "classes" in message.content
        for kind in ("train", "evaluate", "train.calibrate")
        for node, message in app.of(kind)
    }
    assert told == {(kind, node): node == 2 for kind, node in told}


def test_other_classes_are_named_with_the_nearest(tmp_path: Path) -> None:
    configs = own("", ", rename='circel'")
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, 2, node_configs=configs, dataset=SERVER)
    assert (
        "client b: its 16 classes differ from the server's 16: 'circel' is not among them; did "
        "you mean 'circle'?; it lacks 'circle' (label-space = 'union' takes all there are)"
    ) in str(caught.value)


def test_a_union_has_the_classes_of_all(tmp_path: Path) -> None:
    configs = own(", first=4", ", first=4, reverse=True")
    with pytest.raises(UserError, match="client b: its 4 classes differ from client a's 4"):
        run_small(tmp_path / "same", 2, node_configs=configs, dataset="none")
    folder = run_small(
        tmp_path, 2, node_configs=configs, dataset="none", label_space="union", num_rounds=1,
        method="linear_probe", metrics="default + classwise_ece", local_test_fraction=0.6,
    )  # fmt: skip
    assert len(final_adapter(folder)["weight"]) == 8
    names = pd.read_csv(folder / "classwise.csv")
    assert list(dict.fromkeys(names["name"]))[:1] == ["circle"]
    assert names["name"].nunique() == 8
    assert (names.groupby("name")["examples"].sum() > 0).all()


def test_a_union_has_the_servers_classes_first(tmp_path: Path) -> None:
    server = "tiny_datasets:Reordered(first=4)"
    configs = own(", first=4", ", first=4, reverse=True")
    folder = run_small(
        tmp_path, 2, node_configs=configs, dataset=server, label_space="union", num_rounds=1,
        metrics="default + classwise_ece",
    )  # fmt: skip
    found = pd.read_csv(folder / "classwise.csv")
    central = found[(found["source"] == "server-test") & (found["round"] == 1)]
    assert (central["examples"] > 0).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(("label_space", "built"), [("same", [16]), ("union", [4, 8])])
def test_the_server_builds_a_second_classifier_only_for_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label_space: str, built: list[int]
) -> None:
    asked = []

    def counted(*arguments: Any, **options: Any) -> ClipClassifier:
        asked.append(len(arguments[2]))
        return tuned_classifier(*arguments, **options)

    monkeypatch.setattr("fl2ora.server_app.meeting.tuned_classifier", counted)
    first = ", first=4" if label_space == "union" else ""
    run_small(
        tmp_path, 2, node_configs=own(first, f"{first}, reverse=True"), num_rounds=1,
        dataset=f"tiny_datasets:Reordered(seed=2{first})", label_space=label_space,
    )  # fmt: skip
    assert asked == built


def test_a_server_without_data_takes_all_from_its_nodes(tmp_path: Path) -> None:
    """The same nodes train the same model; what lies with the server is not measured."""
    with_data = run_small(
        tmp_path / "a", 2, node_configs=own("", ""), dataset=SERVER, calibrator="temperature",
    )  # fmt: skip
    without = run_small(
        tmp_path / "b", 2, node_configs=own("", ", reverse=True"), dataset="none",
        calibrator="temperature", callbacks="default",
    )  # fmt: skip
    for name, tensor in final_adapter(with_data).items():
        assert torch.equal(final_adapter(without)[name], tensor), name
    expected = metrics_table(with_data)
    expected = expected[~expected["source"].str.startswith("server-test")]
    found = metrics_table(without)
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
    )
    summary = (without / "summary.md").read_text(encoding="utf-8")
    for source in ("clients-test", "clients-test-mean", "clients-test-worst"):
        assert f"(`{source}`)" in summary
    assert "calibrated" in summary
    for name in ("reliability.png", "rounds.png", "clients.png", "metrics.csv"):
        assert (without / name).stat().st_size > 100
    assert "accuracy" in (without / "adapter" / "README.md").read_text(encoding="utf-8")


def test_nodes_without_data_cannot_take_part_where_the_server_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="client 1: dataset: the run has none to share out"):
        run_small(tmp_path, 2, node_configs={0: own("")[0]}, dataset="none")
    with pytest.raises(UserError, match="evaluate-on: 'server' cannot be"):
        run_small(tmp_path / "b", 2, node_configs=own("", ""), dataset="none", evaluate_on="server")


def test_nodes_of_a_server_without_data_agree_on_their_templates(tmp_path: Path) -> None:
    configs = {0: own("")[0], 1: {"site": "b", "dataset": "tiny_datasets:OtherTemplates()"}}
    with pytest.raises(UserError, match="client b: templates: expected the server's"):
        run_small(tmp_path, 2, node_configs=configs, dataset="none")


def test_a_share_and_data_of_ones_own_work_together_as_the_readme_says(tmp_path: Path) -> None:
    configs = {0: {"site": "share-0"}, 1: {**own("", ", reverse=True")[1], "site": "clinic-a"}}
    folder = run_small(tmp_path, 2, node_configs=configs, dataset=SERVER, num_rounds=1)
    nodes = {node["client"]: node["source"] for node in events(folder, "nodes")[0]["nodes"]}
    assert nodes == {"clinic-a": "own", "share-0": "partition"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("cat", "Cat"), "expected names that differ in more than case"),
        (("cat", " "), "expected names, found ' ' at index 1"),
        ((), "expected at least one text"),
        (("cat", "a\x1b[31mb"), "printable texts of at most 1000 signs"),
        (("cat", "x" * 2000), "printable texts of at most 1000 signs"),
        (("cat", "cat"), "client a: expected class names that differ, found one twice"),
    ],
)
def test_odd_names_from_nodes_are_refused(names: tuple[str, ...], words: str) -> None:
    info = NodeInfo("a", class_names=names, templates=("a {}.",))
    _, _, problems = run_classes(None, [info], "same")
    assert words in problems[0]
    assert all(problem.isprintable() and len(problem) < 400 for problem in problems)


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=20))
def test_relabelled_images_keep_their_names(order: list[int], labels: list[int]) -> None:
    own_names = [f"class {number}" for number in range(6)]
    names = [own_names[number] for number in order] + ["another"]
    pixels, numbers = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels)
    numbers = numbers.to(torch.int64)
    images = LabelledImages(pixels, numbers, torch.zeros_like(numbers))
    found = relabelled(images, own_names, names).labels.tolist()
    assert [names[label] for label in found] == [own_names[label] for label in labels]


def test_a_name_that_the_run_lacks_is_refused() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    images = LabelledImages(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), nothing, nothing)
    with pytest.raises(UserError, match=r"classes: expected them among the run's 1, found \['b'\]"):
        relabelled(images, ["a", "b"], ["a"])


def test_one_class_is_nothing_to_classify() -> None:
    info = NodeInfo("a", class_names=("cat",), templates=("a {}.",))
    _, _, problems = run_classes(None, [info], "same")
    assert problems == ["classes: expected at least two to tell apart, found cat"]
    names, pair = ("a {}.",), ("cat", "dog")
    alone = HeldOutPart("new", without_data(pair, names).train, ("x",), names)
    federation = replace(without_data(pair, names), parts=(alone,))
    info = NodeInfo("a", class_names=pair, templates=names)
    _, _, problems = run_classes(federation, [info], "same")
    assert problems == ["held-out part 'new': expected at least two classes to tell apart, found x"]

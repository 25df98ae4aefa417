"""Test images that nodes with data of their own bring: measured on the nodes, under their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.protocols.base_to_new import BaseToNew
from fl2ora.messages.hello import NodeInfo
from fl2ora.messages.own_parts import PartInfo
from fl2ora.reporting.sources import main_source
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.label_space import without_data
from fl2ora.server_app.own_parts import own_parts
from runs import events, run_small
from tiny_datasets import Reordered


def nodes(*datasets: str) -> dict[int, dict[str, Any]]:
    """Return the configs of nodes a, b, ..., each with data of its own."""
    return {i: {"site": "abc"[i], "dataset": name} for i, name in enumerate(datasets)}


def rows(folder: Path, prefix: str) -> dict[tuple[int, str], dict[str, float]]:
    """Return the values of sources that begin so, without that beginning, by round."""
    table = metrics_table(folder)
    return {
        (row.pop("round"), row.pop("source").removeprefix(prefix)): {
            name: value for name, value in row.items() if value == value
        }
        for row in table.to_dict("records")
        if row["source"].startswith(prefix)
    }


def tiny(arguments: str = "") -> str:
    return f"tiny_datasets:Reordered({arguments})"


@pytest.mark.parametrize(
    ("protocol", "calibrator"),
    [("in_distribution", "vector"), ("base_to_new", "dac"), ("in_domain", "temperature")],
)
def test_a_node_measures_its_test_images_as_the_server_does(
    tmp_path: Path, protocol: str, calibrator: str
) -> None:
    """One node has the very data of the server, which measures it by other code."""
    mine = tiny() if protocol == "base_to_new" else tiny("reverse=True")
    folder = run_small(
        tmp_path, 1, node_configs=nodes(mine), dataset=tiny(), protocol=protocol,
        calibrator=calibrator,
    )  # fmt: skip
    central, own = rows(folder, "server-test"), rows(folder, "nodes-test")
    assert central
    for key, values in central.items():
        for name, value in values.items():
            assert own[key][name] == pytest.approx(value, abs=1e-6), (key, name)
    calibrated = {source for _, source in central if source.endswith("-calibrated")}
    assert calibrated


def test_the_nodes_parts_are_pooled_and_spread(tmp_path: Path) -> None:
    """Two nodes of 16 and 32 test images: pooled is weighted by them, the mean is not."""
    configs = nodes(tiny("first=8"), tiny("seed=1, first=8"))
    folder = run_small(
        tmp_path,
        2,
        node_configs=configs,
        dataset="none",
        num_rounds=1,
        callbacks="default",
        metrics="default + classwise_ece",
    )
    found = rows(folder, "nodes-test")[1, ""]
    sizes = [len(Reordered(seed=seed, first=8).split("test")) for seed in (0, 1)]
    said = [node["parts"] for node in events(folder, "nodes")[0]["nodes"]]
    assert said == [{"nodes-test": size} for size in sizes]
    each = [
        rows(
            run_small(tmp_path, 2, node_configs=configs, dataset=tiny(f"seed={seed}, first=8"),
                      num_rounds=1, run_name=f"as-{seed}"),
            "server-test",
        )[1, ""]["accuracy"]
        for seed in (0, 1)
    ]  # fmt: skip
    pooled = sum(size * value for size, value in zip(sizes, each, strict=True)) / sum(sizes)
    assert found["accuracy"] == pytest.approx(pooled)
    assert rows(folder, "nodes-test")[1, "-mean"]["accuracy"] == pytest.approx(sum(each) / 2)
    assert rows(folder, "nodes-test")[1, "-worst"]["accuracy"] == pytest.approx(min(each))
    summary = (folder / "summary.md").read_text(encoding="utf-8")
    assert "## Nodes' own test images, pooled (`nodes-test`)" in summary
    card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "Nodes' own test images" in card
    classwise = pd.read_csv(folder / "classwise.csv")
    assert "nodes-test" in set(classwise["source"])


def test_a_node_without_the_domain_left_out_trains_on_all_it_has(tmp_path: Path) -> None:
    small = "train=64, validation=1, test=32"
    configs = nodes(
        f"shapes(styles='neon,chalk', {small})", f"shapes(styles='mosaic,patterned', {small})"
    )
    protocol = "leave_one_domain_out(domain='neon')"
    folder = run_small(
        tmp_path, 2, node_configs=configs, dataset="none", protocol=protocol, num_rounds=1,
        local_test_fraction=0.0, calibration_fraction=0.0,
    )  # fmt: skip
    said = {node["client"]: node for node in events(folder, "nodes")[0]["nodes"]}
    assert {key: node["parts"] for key, node in said.items()} == {
        "a": {"nodes-test": 16},
        "b": {"nodes-test": 0},
    }
    assert said["b"]["train"] == 64
    assert said["a"]["train"] == 32
    assert rows(folder, "nodes-test")[1, ""]["num_examples"] == 16
    with pytest.raises(UserError) as caught:
        run_small(
            tmp_path / "misspelt", 2, node_configs=configs, dataset="none",
            protocol="leave_one_domain_out(domain='neom')",
        )  # fmt: skip
    assert "client a: 'neom' is not among its domains (chalk, neon), and no other" in str(
        caught.value
    )


def test_a_union_of_new_classes_is_measured_among_all_of_them(tmp_path: Path) -> None:
    configs = nodes(tiny("first=6"), tiny("first=6, reverse=True"))
    with pytest.raises(UserError, match="its 3 classes differ from client a's 3"):
        run_small(tmp_path, 2, node_configs=configs, dataset="none", protocol="base_to_new")
    folder = run_small(
        tmp_path / "union", 2, node_configs=configs, dataset="none", protocol="base_to_new",
        label_space="union", num_rounds=1, metrics="default + classwise_ece",
    )  # fmt: skip
    table = pd.read_csv(folder / "classwise.csv")
    new = table[(table["source"] == "nodes-test/new") & (table["round"] == 1)]
    names = Reordered().class_names
    assert new["name"].tolist() == [*names[3:6], *names[12:9:-1]]
    assert (1, "/harmonic-mean") in rows(folder, "nodes-test")


def test_a_class_that_is_new_here_and_trained_on_there_is_refused(tmp_path: Path) -> None:
    """Eight classes, in the other order on the other node: its base classes are the first's new."""
    configs = nodes(tiny(), tiny("reverse=True"))
    with pytest.raises(UserError, match=r"client b: trains on .*, which client a holds out as new"):
        run_small(
            tmp_path, 2, node_configs=configs, dataset="none", protocol="base_to_new",
            label_space="union",
        )  # fmt: skip


def test_a_calibrator_of_the_trained_classes_is_not_applied_to_new_ones(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, 1, node_configs=nodes(tiny()), dataset="none", protocol="base_to_new",
        calibrator="vector", num_rounds=1,
    )  # fmt: skip
    (event,) = events(folder, "not-calibrated")
    assert event["source"] == "nodes-test/new"
    assert "belong to the 8 classes that were tuned on" in event["reason"]
    assert not events(folder, "drop")
    found = {source for _, source in rows(folder, "nodes-test")}
    assert "/base-calibrated" in found
    assert "/new-calibrated" not in found


@pytest.mark.parametrize("protocol", ["base_to_new", "cross_dataset(targets='shapes')"])
def test_dac_serves_a_server_without_data_where_nodes_hold_out_new_classes(
    tmp_path: Path, protocol: str
) -> None:
    settings: dict[str, Any] = {"dataset": "none", "protocol": protocol, "calibrator": "dac"}
    configs = nodes(tiny(), tiny("seed=1"))
    if protocol != "base_to_new":
        with pytest.raises(UserError, match="'dac' corrects classes that are not trained on"):
            run_small(tmp_path, 2, node_configs=configs, num_rounds=1, **settings)
        return
    folder = run_small(tmp_path, 2, node_configs=configs, num_rounds=1, **settings)
    found = rows(folder, "nodes-test")
    assert found[1, "/new-calibrated"]["confidence"] != found[1, "/new"]["confidence"]
    assert found[1, "/base-calibrated"] == pytest.approx(found[1, "/base"])


def test_the_nodes_own_part_stands_for_a_run_that_measures_nothing_else(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, 1, node_configs=nodes(tiny()), dataset="none", num_rounds=1,
        local_test_fraction=0.0, callbacks="default",
    )  # fmt: skip
    table = metrics_table(folder)
    assert "clients-test" not in set(table["source"])
    assert main_source(table["source"]) == "nodes-test"
    assert "## Nodes' own test images" in (folder / "summary.md").read_text(encoding="utf-8")


def test_the_servers_new_classes_are_not_trained_on_either() -> None:
    server = BaseToNew().arrange(Reordered())
    names = server.class_names
    new = PartInfo("new", 3, ("a thing", "another"), server.templates)
    trains = NodeInfo("b", class_names=(*names, server.parts[1].class_names[0]), parts=(new,))
    _, problems = own_parts(server, trains.class_names, [trains], "union")
    assert any(
        "client b: trains on" in text and "the server holds out" in text for text in problems
    )


def test_a_method_of_the_trained_classes_serves_no_new_ones_of_a_node(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"client a: method 'linear_probe'.*serve any classes"):
        run_small(
            tmp_path, 1, node_configs=nodes(tiny()), dataset="none", protocol="base_to_new",
            method="linear_probe",
        )  # fmt: skip


def test_a_node_needs_no_dataset_that_the_server_alone_measures(tmp_path: Path) -> None:
    """The targets of cross_dataset lie with the server; the node's own test split is the source."""
    protocol = f"cross_dataset(targets='{tiny('seed=5')}')"
    folder = run_small(
        tmp_path, 1, node_configs=nodes(tiny("seed=1")), dataset=tiny(), protocol=protocol,
        num_rounds=0,
    )  # fmt: skip
    assert {source for _, source in rows(folder, "nodes-test")} >= {"/source"}
    assert {source for _, source in rows(folder, "server-test")} == {
        "/source", "/Reordered", "/target-mean"
    }  # fmt: skip


def test_templates_and_kinds_of_parts_must_agree() -> None:
    data = without_data(("cat", "dog"), ("a {}.",))
    first = NodeInfo(
        "a", class_names=("cat", "dog"), parts=(PartInfo("new", 2, ("x", "y"), ("a {}.",)),)
    )
    other = NodeInfo(
        "b", class_names=("cat", "dog"), parts=(PartInfo("new", 2, ("x", "y"), ("b {}.",)),)
    )
    trained = NodeInfo("c", class_names=("cat", "dog"), parts=(PartInfo("new", 2),))
    for odd in (other, trained):
        _, problems = own_parts(data, data.class_names, [first, odd], "union")
        assert (
            f"client {odd.client}: held-out part 'new': expected the same templates" in problems[0]
        )
    bad = NodeInfo(
        "a", class_names=("cat", "dog"), parts=(PartInfo("new", 2, ("x", "X"), ("a {}.",)),)
    )
    _, problems = own_parts(data, data.class_names, [bad], "same")
    assert "differ in more than case" in problems[0]

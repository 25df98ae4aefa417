"""A deployment on this machine: TLS, nodes with keys, and the adapter of every other engine."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.loopback import ROOT, SecureSuperLink, supernode
from deployment import end_of
from fl2ora.commands.node_check import _connection, _key
from fl2ora.engines.private_superlink import tool
from fl2ora.experiment.config import RunConfig
from runs import SMALL, assert_equal_runs, run_small

CLIENTS = 2
WARM = ("fl2ora", "node", "run")
REFUSED_SECONDS = 300.0


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSuperLink]:
    with SecureSuperLink(tmp_path_factory.mktemp("superlink")) as started:
        yield started


def refusal(superlink: SecureSuperLink, key: Path, folder: Path, authority: Path | None) -> str:
    """Start a node that should be refused and return what it says when it gives up."""
    described = "partition-id=0 num-partitions=2"
    with supernode(superlink, key, folder, described, authority):
        deadline = time.monotonic() + REFUSED_SECONDS
        while "Exit Code: 305" not in (said := (folder / "log").read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        return said


@pytest.mark.usefixtures("alone")
class TestFederation:
    """One SuperLink for all: it takes its time to start."""

    def test_a_node_without_a_registered_key_is_refused(
        self, superlink: SecureSuperLink, tmp_path: Path
    ) -> None:
        said = refusal(superlink, superlink.key("stranger"), tmp_path, None)
        assert "Failed to activate SuperNode" in said
        assert "No SuperNode found with the given public key" in superlink.log_tail(40)

    def test_another_authority_is_refused_by_nodes_and_found_by_the_check(
        self, superlink: SecureSuperLink, tmp_path: Path
    ) -> None:
        other = SecureSuperLink(tmp_path / "other")
        key = superlink.registered_key("cautious")
        said = refusal(superlink, key, tmp_path, other.authority)
        assert "certificate verify failed" in said
        _, problem = _connection(superlink.address, other.authority)
        assert "its certificate does not fit" in problem
        found, problem = _connection(superlink.address, superlink.authority)
        assert (found.startswith(f"{superlink.address}, certificate until"), problem) == (True, "")
        assert _key(key)[1] == ""

    def test_two_runs_of_other_models_end_with_the_adapters_of_every_other_engine(
        self, superlink: SecureSuperLink, tmp_path: Path, tiny_clip_folder: Path
    ) -> None:
        """Both nodes answer all messages of a run in one process, and none of both runs."""
        runs: dict[str, dict[str, Any]] = {
            "one": {},
            "other": {"model": str(tiny_clip_folder), "strategy": "feddyn", "num_rounds": 1},
        }
        with contextlib.ExitStack() as nodes:
            for index in range(CLIENTS):
                key = superlink.registered_key(f"site-{index}")
                described = f"partition-id={index} num-partitions={CLIENTS}"
                home = tmp_path / f"node-{index}"
                nodes.enter_context(supernode(superlink, key, home, described, command=WARM))
            for name, settings in runs.items():
                run_to_its_end(superlink, tmp_path, name, settings)
        for name, settings in runs.items():
            whole = run_small(tmp_path / "in-process", clients=CLIENTS, run_name=name, **settings)
            assert_equal_runs(tmp_path / name, whole)


def run_to_its_end(
    superlink: SecureSuperLink, folder: Path, name: str, settings: dict[str, Any]
) -> None:
    keys = {"output-dir": str(folder), "run-name": name, "start-timeout": 600.0}
    keys |= {key.replace("_", "-"): value for key, value in settings.items()}
    config = RunConfig.from_flat({**SMALL, "num-clients": CLIENTS, **keys})
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.flat().items()))
    run_id = superlink.submit(ROOT, file)
    status = end_of(superlink, run_id, [folder / name / "events.jsonl", *folder.glob("*/log")])
    superlink.add_run_log(run_id)
    assert status == "finished:completed", superlink.log_tail(60)


def test_every_option_in_the_deploy_folder_is_one_of_flowers_commands() -> None:
    options = {}
    for name in ("flower-superlink", "flower-supernode"):
        done = subprocess.run([tool(name), "--help"], capture_output=True, text=True, check=True)
        options[name] = set(re.findall(r"--[a-z-]+", done.stdout))
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    commands = [service["command"] for service in services.values()]
    for unit in sorted((ROOT / "deploy/systemd").iterdir()):
        text = unit.read_text().replace("\\\n", " ")
        commands += re.findall(r"^ExecStart=\S*/(flower-.*)$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        name = command.split()[0]
        used = set(re.findall(r"--[a-z-]+", command))
        assert used
        assert used <= options[name], f"{name}: {used - options[name]}"


@pytest.mark.parametrize("name", ["superlink.service", "supernode@.service"])
def test_units_start_what_the_guide_installs(name: str) -> None:
    text = (ROOT / "deploy/systemd" / name).read_text()
    paths = set(re.findall(r"/(?:etc|opt|var)/(?!systemd)[\w./%@-]+", text))
    assert paths
    guide = (ROOT / "docs/deployment.md").read_text()
    for path in paths:
        root = "/".join(path.split("/")[:3])
        assert root in guide, f"{name}: {path} is nowhere in docs/deployment.md"

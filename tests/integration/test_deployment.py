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

import psutil
import pytest
import yaml

from benchmarks.loopback import ROOT, SecureSuperLink, supernode
from deployment import STANDSTILL, end_of
from fl2ora.commands.node_check import _connection, _key
from fl2ora.engines.private_superlink import stop, tool
from fl2ora.experiment.config import RunConfig
from runs import SMALL, assert_equal_runs, events, run_small

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
        """One after the other on the same nodes; the second one's server is killed in mid-round.

        A node stops and starts again before it goes on. A node answers all messages of a run in one
        process, and none of two runs.
        """
        runs: dict[str, dict[str, Any]] = {
            "one": {"num-rounds": 1, "callbacks": "none"},
            "other": {"model": str(tiny_clip_folder), "strategy": "feddyn", "callbacks": "none"},
        }
        keys = [superlink.registered_key(f"site-{index}") for index in range(CLIENTS)]
        with contextlib.ExitStack() as nodes:

            def start(index: int) -> subprocess.Popen[bytes]:
                described = f"partition-id={index} num-partitions={CLIENTS}"
                home = tmp_path / f"node-{index}"
                return nodes.enter_context(
                    supernode(superlink, keys[index], home, described, command=WARM)
                )

            started = [start(index) for index in range(CLIENTS)]
            run_to_its_end(superlink, tmp_path / "one", settings_of(tmp_path, "one", runs["one"]))
            superlink.submit(ROOT, settings_of(tmp_path, "other", runs["other"]))
            kill_in_round_two(superlink, tmp_path / "other")
            stop(started[1])
            start(1)
            run_to_its_end(superlink, tmp_path / "other", tmp_path / "other" / "resume.toml")
        assert [event["round"] for event in events(tmp_path / "other", "resumed")] == [1]
        for name, settings in runs.items():
            whole = run_small(tmp_path / "in-process", clients=CLIENTS, run_name=name, **settings)
            assert_equal_runs(tmp_path / name, whole)


def settings_of(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    keys = {"output-dir": str(folder), "run-name": name, "start-timeout": 600.0}
    keys |= {key.replace("_", "-"): value for key, value in settings.items()}
    config = RunConfig.from_flat({**SMALL, "num-clients": CLIENTS, **keys})
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.flat().items()))
    return file


def run_to_its_end(superlink: SecureSuperLink, folder: Path, settings: Path) -> None:
    run_id = superlink.submit(ROOT, settings)
    status = end_of(superlink, run_id, [folder / "events.jsonl", *folder.parent.glob("*/log")])
    if status != "finished:completed":
        superlink.add_run_log(run_id)
    assert status == "finished:completed", superlink.log_tail(60)


def kill_in_round_two(superlink: SecureSuperLink, folder: Path) -> None:
    """Kill a run's server as soon as one client's update of round 2 is there."""
    deadline = time.monotonic() + STANDSTILL
    while len(events(folder, "client")) <= CLIENTS:
        assert time.monotonic() < deadline, superlink.log_tail(40)
        time.sleep(0.02)
    assert superlink._process is not None
    for process in psutil.Process(superlink._process.pid).children(recursive=True):
        if any("flwr-serverapp" in word for word in process.cmdline()):
            process.kill()


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

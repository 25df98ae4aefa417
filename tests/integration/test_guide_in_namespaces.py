"""docs/deployment.md, followed command by command on four machines: network namespaces.

Each machine has an address of its own and a checkout of its own. Left out are installing, and what
is changed stands in ``Machine.here`` and ``RUN``: where files lie, and runs of hours.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployment import STANDSTILL
from documented import ROOT, commands
from fl2ora.engines.private_superlink import stop

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("alone")]

SERVER, ME, A, B = "server", "me", "clinic-a", "clinic-b"
ADDRESSES = {SERVER: "192.0.2.10", ME: "192.0.2.11", A: "192.0.2.12", B: "192.0.2.13"}
RUN = (
    'flwr run . federation --stream --run-config "num-clients=2 num-rounds=2 '
    "dataset='shapes(train=60, validation=16, test=32)' partition='iid' resamples=0\""
)
SITE = 'site = "{name}"\npartition-id = {share}\nnum-partitions = 2\nstate-dir = "{state}"\n'
FLOWER_CONFIG = """[superlink]
default = "federation"

[superlink.federation]
address = "federation.example.org:8433"
root-certificates = "{home}/ca.crt"
"""


@dataclass(frozen=True)
class Machine:
    """A network namespace, a checkout, and a home.

    Attributes:
        name: of both.
        folder: the checkout.
    """

    name: str
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder.parent / f"{self.name}-home"

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", f"fl2ora-{self.name}"]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        own = {"HOME": str(self.home), "PYTHONPATH": str(self.folder), "PATH": path}
        output = {"FL2ORA_OUTPUT_DIR": str(self.home / "runs")}
        return {**os.environ, **quiet, **own, **output, "FLWR_HOME": str(self.home / ".flwr")}

    def does(self, command: str) -> str:
        """Run a command line of the guide to its end; return what it says."""
        done = subprocess.run(
            [*self.prefix, "bash", "-c", self.here(command)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}$ {command}\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def serves(self, command: str) -> Iterator[Path]:
        """Start a command line of the guide that stays; yield its log."""
        log = self.home / "log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*self.prefix, "bash", "-c", f"exec {self.here(command)}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield log
        finally:
            stop(process)

    def here(self, command: str) -> str:
        """Return a command with this machine's paths."""
        for folder in ("/etc/fl2ora", "/var/lib/fl2ora"):
            command = command.replace(folder, f"{self.home}{folder}")
        command = command.replace("deploy/nodes/site.toml", f"{self.home}/site.toml")
        return command.replace("configs/fashion-mnist.toml", f"{self.home}/run.toml")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    """Four namespaces on one bridge, each with the server's name among its hosts."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    made = {}
    with contextlib.ExitStack() as stack:
        sh(["ip", "netns", "add", "fl2ora-switch"])
        stack.callback(sh, ["ip", "netns", "del", "fl2ora-switch"])
        switch = ["ip", "-n", "fl2ora-switch", "link"]
        sh([*switch, "add", "bridge", "type", "bridge"], [*switch, "set", "bridge", "up"])
        for name, address in ADDRESSES.items():
            machine = made[name] = Machine(name, tmp_path / name)
            machine.folder.mkdir()
            machine.home.mkdir()
            (machine.home / "var/lib/fl2ora").mkdir(parents=True)
            copy = ["xargs", "-0", "cp", "--parents", "-P", "-t", str(machine.folder)]
            subprocess.run(copy, input=files, cwd=ROOT, check=True)
            space, cable = f"fl2ora-{name}", f"to-{name}"
            sh(["ip", "netns", "add", space])
            stack.callback(sh, ["ip", "netns", "del", space])
            hosts = Path("/etc/netns") / space / "hosts"
            hosts.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(sh, ["rm", "-r", str(hosts.parent)])
            hosts.write_text(f"127.0.0.1 localhost\n{ADDRESSES[SERVER]} federation.example.org\n")
            inside = ["ip", "-n", space]
            sh(
                ["ip", "link", "add", "net", "netns", space, "type", "veth",
                 "peer", "name", cable, "netns", "fl2ora-switch"],
                [*switch, "set", cable, "master", "bridge", "up"],
                [*inside, "address", "add", f"{address}/24", "dev", "net"],
                [*inside, "link", "set", "net", "up"],
                [*inside, "link", "set", "lo", "up"],
            )  # fmt: skip
        yield made


def sh(*lines: Sequence[str]) -> None:
    for words in lines:
        subprocess.run(words, check=True, capture_output=True)


def of_guide(start: str) -> str:
    """Return the longest command of the guide that begins so, without its comment."""
    found = [c.text for c in commands(ROOT / "docs/deployment.md") if c.text.startswith(start)]
    return max(found, key=len).partition("   # ")[0]


def until(log: Path, words: str) -> None:
    moved, seen = time.monotonic(), -1
    while words not in (said := log.read_text(errors="replace")):
        if len(said) != seen:
            moved, seen = time.monotonic(), len(said)
        assert time.monotonic() < moved + STANDSTILL, said
        time.sleep(0.5)


@pytest.mark.skipif(
    subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs the right to make network namespaces",
)
def test_the_guide_makes_a_federation_of_what_it_says(machines: dict[str, Machine]) -> None:
    server, me = machines[SERVER], machines[ME]
    nodes = [machines[A], machines[B]]
    server.does(of_guide("fl2ora doctor"))
    server.does(of_guide("deploy/certificates.sh"))
    server.does(of_guide("mkdir -p /etc/fl2ora"))
    for machine in (me, *nodes):  # ca.crt goes to every node and every user
        sh(["cp", f"{server.folder}/certs/ca.crt", str(machine.folder)])
        sh(["cp", f"{server.folder}/certs/ca.crt", str(machine.home)])
    (me.home / ".flwr").mkdir()
    (me.home / ".flwr/config.toml").write_text(FLOWER_CONFIG.format(home=me.home))
    with contextlib.ExitStack() as stack:
        until(stack.enter_context(server.serves(of_guide("flower-superlink"))), "8433")
        for share, (node, begins) in enumerate(
            zip(nodes, ("flower-supernode", "fl2ora node run"), strict=True)
        ):
            mine = [("clinic-a", node.name), ("flower-supernode --s", f"{begins} --s")]
            settings = SITE.format(name=node.name, share=share, state=node.home / "state")
            (node.home / "site.toml").write_text(settings)
            for start in ("ssh-keygen", "flwr supernode register", "fl2ora node check"):
                command = of_guide(start).replace(*mine[0])
                if start.startswith("flwr"):
                    sh(["cp", str(node.folder / f"{node.name}.pub"), str(me.folder)])
                    me.does(command)
                else:
                    (node.home / "run.toml").write_text('dataset = "shapes"\n')
                    node.does(command)
            command = of_guide("flower-supernode")
            for change in mine:
                command = command.replace(*change)
            stack.enter_context(node.serves(command))
        said = me.does(RUN)
        assert "Everything is in" in said, said
        listed = me.does(of_guide("flwr supernode list federation"))
        assert listed.count("online") == 2, listed
        listed = me.does(of_guide("flwr list federation"))
        assert "finished" in listed, listed
    (run,) = (server.home / "runs").iterdir()
    assert (run / "adapter").is_dir()

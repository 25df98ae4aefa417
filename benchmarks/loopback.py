"""A SuperLink with TLS and nodes with keys on this machine, as docs/deployment.md has them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from fl2ora.engines.private_superlink import PrivateSuperLink, free_port, stop, tool
from fl2ora.experiment.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


class SecureSuperLink(PrivateSuperLink):
    """A SuperLink that only nodes with a registered key reach, through TLS.

    Args:
        folder: for certificates, keys and the database.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = ROOT / "deploy" / "certificates.sh"
        subprocess.run([script, folder, "localhost", "127.0.0.1"], check=True, capture_output=True)
        self.authority = folder / "ca.crt"
        self.options = (
            "--ssl-ca-certfile", str(self.authority),
            "--ssl-certfile", str(folder / "server.pem"),
            "--ssl-keyfile", str(folder / "server.key"),
            "--enable-supernode-auth",
            "--database", str(folder / "superlink.db"),
        )  # fmt: skip
        self.security = f'root-certificates = "{self.authority}"'
        super().__init__()

    def key(self, name: str) -> Path:
        """Return the path of a new key."""
        path = self.folder / name
        command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(path)]
        subprocess.run(command, check=True)
        return path

    def registered_key(self, name: str) -> Path:
        """Return the path of a new key that is registered."""
        path = self.key(name)
        done = subprocess.run(
            [tool("flwr"), "supernode", "register", f"{path}.pub", "private", "--name", name],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UserError(f"{name}: not registered: {done.stdout}{done.stderr}")
        return path


@contextlib.contextmanager
def supernode(
    superlink: SecureSuperLink,
    key: Path,
    folder: Path,
    config: str,
    authority: Path | None = None,
    command: Sequence[str] = ("flower-supernode",),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a SuperNode as one would on a machine of its own, with its own Flower home.

    Args:
        superlink: to join.
        key: its private one.
        folder: its home, with its ``log``.
        config: its node config.
        authority: whose certificates it believes; None: the SuperLink's.
        command: that starts it.
    """
    folder.mkdir(exist_ok=True)
    words = [
        tool(command[0]), *command[1:], "--superlink", superlink.address,
        "--root-certificates", str(authority or superlink.authority),
        "--auth-supernode-private-key", str(key),
        "--port", str(free_port()), "--node-config", config,
    ]  # fmt: skip
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**superlink.environment, "FLWR_HOME": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        stop(process)

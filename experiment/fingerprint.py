"""Which code and which libraries a process runs, so that a round never mixes two.

Flower's simulation can import the ClientApp from another project than the ServerApp: Ray puts the
SuperLink's working directory on the workers' path. Comparing fingerprints catches that, and a node
of a deployment that was not updated.
"""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOMS = (
    "calibration", "client_app", "clip_tuning", "experiment", "federated_data",
    "messages", "reporting", "server_app", "strategies",
)  # fmt: skip
LIBRARIES = ("flwr", "torch", "transformers", "peft", "safetensors", "numpy")


@lru_cache(maxsize=1)
def code_root() -> Path:
    """Return the folder that holds the rooms this process imported."""
    return Path(__file__).resolve().parent.parent


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Return 16 hex digits over every Python and JSON file of the rooms, names and contents."""
    digest = hashlib.sha256()
    root = code_root()
    for path in sorted(p for room in ROOMS for p in (root / room).rglob("*")):
        if path.suffix in (".py", ".json") and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the numbers depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


@lru_cache
def _version(name: str) -> str:
    # Kept: the metadata are parsed anew each time, and a simulation has a thousand clients.
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"

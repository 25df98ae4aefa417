"""Imports go one way between the rooms, and the pure ones know neither Flower nor Ray."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What each room may import of ours, besides itself.
ALLOWED: dict[str, set[str]] = {
    "experiment": set(),
    "calibration": set(),
    "clip_tuning": {"experiment"},
    "federated_data": {"experiment"},
    "reporting": {"experiment", "calibration"},
    "strategies": {"experiment", "calibration", "clip_tuning", "federated_data", "reporting"},
}
ALLOWED["messages"] = {"strategies", *ALLOWED["strategies"]}
ALLOWED["client_app"] = ALLOWED["server_app"] = {"messages", *ALLOWED["messages"]}
ALLOWED["engines"] = {"client_app", "server_app", *ALLOWED["client_app"]}
ALLOWED["pretraining"] = {"experiment", "calibration", "clip_tuning", "federated_data"}
ALLOWED["commands"] = {"engines", "pretraining", *ALLOWED["engines"]}
FLOWERS = {"messages", "server_app", "engines", "commands"}  # rooms that may know Flower and Ray
# Flower's shells in the other rooms; everything else there is pure.
SHELLS = {"client_app/app.py", "client_app/state.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_room(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(_room(node.module))
    return found


def _room(module: str) -> str:
    """Return the room of ours that a module is in, or the library."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "fl2ora" else first


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        beyond = (imports(path) & ALLOWED.keys()) - ALLOWED[room] - {room}
        assert not beyond, f"{path.relative_to(ROOT)} imports {sorted(beyond)}"


def test_the_pure_rooms_do_not_know_flower_or_ray() -> None:
    for room in sorted(ALLOWED.keys() - FLOWERS):
        for path in (ROOT / room).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name not in SHELLS:
                assert not imports(path) & {"flwr", "ray"}, name


def test_no_module_has_a_name_that_a_bundle_drops() -> None:
    for room in ALLOWED:
        for path in (ROOT / room).rglob("*.py"):
            assert not path.stem.startswith("test_"), path
            assert not path.stem.endswith("_test"), path

"""Imports go one way between the rooms, and the pure ones know neither Flower nor Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
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
ALLOWED["results"] = {"server_app", *ALLOWED["server_app"]} - {"messages"}
ALLOWED["pretraining"] = {"experiment", "calibration", "clip_tuning", "federated_data", "reporting"}
ALLOWED["commands"] = {"engines", "pretraining", "results", *ALLOWED["engines"]}
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
def test_packages_import_only_lower_layers(room: str) -> None:
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


def test_pure_modules_load_neither_flower_nor_ray() -> None:
    """In a process of its own, so that what they import indirectly shows too."""
    modules = (
        "fl2ora.calibration", "fl2ora.strategies.averaging.fedavg",
        "fl2ora.federated_data.partition.dirichlet", "fl2ora.client_app.training",
    )  # fmt: skip
    code = (
        f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
        "    print(name, sorted({'flwr', 'ray'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{name} []" for name in modules]


def test_the_round_loop_imports_no_plug_in() -> None:
    """Callbacks and strategies come to it by their base classes; it knows none by name."""
    tree = ast.parse((ROOT / "server_app" / "rounds.py").read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    folders = ("fl2ora.strategies", "fl2ora.server_app.callbacks")
    assert {module for module in modules if module.startswith(folders)} == {
        "fl2ora.server_app.callbacks.base",
        "fl2ora.strategies.base",
        "fl2ora.strategies.updates",  # what a client sends: data, not a plug-in
    }

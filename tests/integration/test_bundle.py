"""The Flower bundle holds every module that is needed, and nothing else."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import io
import shutil
import sys
import tomllib
import types
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fl2ora.engines import ray as ray_engine
from fl2ora.experiment.fingerprint import ROOMS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle() -> zipfile.ZipFile:
    content = build_fab_from_disk(ROOT)
    assert len(content) < 10e6, f"{len(content)} bytes"
    return zipfile.ZipFile(io.BytesIO(content))


def test_bundle_holds_every_module_and_little_else(bundle: zipfile.ZipFile) -> None:
    files = set(bundle.namelist())
    rooms = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".json") and "__pycache__" not in path.parts
    }
    assert len(rooms) > 50
    assert rooms - files == set()
    rest = {name for name in files - rooms if not name.startswith(".info")}
    assert rest == {"fl2ora/__init__.py", "pyproject.toml", "README.md", "LICENSE"}


def test_installed_wheel_can_be_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "fl2ora"
    for room in ROOMS:
        shutil.copytree(ROOT / room, installed / room)
    shutil.copy(ROOT / "fl2ora" / "__init__.py", installed / "__init__.py")
    shutil.copy(ROOT / "pyproject.toml", installed / "experiment" / "app.toml")
    (installed / "messages" / "__pycache__").mkdir(exist_ok=True)
    monkeypatch.setattr(ray_engine, "code_root", lambda: installed)
    app = ray_engine._app_folder(tmp_path)
    assert app != ROOT
    assert not list(app.rglob("__pycache__"))
    files = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))).namelist()
    assert "fl2ora/__init__.py" in files
    assert "server_app/app.py" in files
    assert "clip_tuning/assets/weights.json" in files


def test_every_import_of_ours_is_inside(bundle: zipfile.ZipFile) -> None:
    files = set(bundle.namelist())
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    checked = 0
    for name in sorted(files):
        if not name.endswith(".py"):
            continue
        for module in _imports(bundle.read(name).decode()):
            top, _, inside = module.partition(".")
            assert top not in ours - {"fl2ora"}, f"{name} imports {module} beside the package"
            if top == "fl2ora" and inside:
                path = inside.replace(".", "/")
                if name == "fl2ora/__init__.py" and path.startswith(("engines/", "results/")):
                    continue  # loaded when it is asked for, which no app does
                assert {f"{path}.py", f"{path}/__init__.py"} & files, f"{name} imports {module}"
                checked += 1
    assert checked > 100


def test_flower_finds_the_apps_while_the_package_is_half_imported(
    bundle: zipfile.ZipFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation looks for the ClientApp in one thread while another imports the ServerApp."""
    bundle.extractall(tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    apps = project["tool"]["flwr"]["app"]["components"]
    modules = {apps[name].partition(":")[0] for name in ("serverapp", "clientapp")}
    half = types.ModuleType("fl2ora")
    half.__path__ = [str(tmp_path / "fl2ora")]
    half.__spec__ = importlib.machinery.ModuleSpec("fl2ora", None, is_package=True)
    for name in [*modules, *(module.rpartition(".")[0] for module in modules)]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "fl2ora", half)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin == str(tmp_path / (module.replace(".", "/") + ".py"))


def _imports(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
    return found


def test_a_checkout_is_bundled_without_its_environment_and_runs(tmp_path: Path) -> None:
    """Flower looks at every file of the folder it is given, of which a checkout may have many."""
    app = ray_engine._app_folder(tmp_path)
    assert app.is_relative_to(tmp_path)
    assert {path.name for path in app.iterdir()} == {
        *ROOMS, "fl2ora", "pyproject.toml", "README.md", "LICENSE"
    }  # fmt: skip
    assert (app / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    copied = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app)))
    whole = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    differing = {
        name
        for name in {*copied.namelist(), *whole.namelist()}
        if name not in copied.namelist()
        or name not in whole.namelist()
        or copied.read(name) != whole.read(name)
    }
    assert {name for name in differing if not name.startswith(".info")} == {"README.md", "LICENSE"}

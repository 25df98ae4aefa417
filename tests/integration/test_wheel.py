"""What is installed from here: one package, which works far from the repository."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from command_line import FL2ORA, Command, imported_from

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like site-packages with the wheel and nothing else in it."""
    folder = tmp_path_factory.mktemp("site")
    _run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], ROOT)
    return folder


def test_one_package_is_installed(site: Path) -> None:
    names = sorted(path.name for path in site.iterdir() if path.name != "bin")
    assert names[0] == "fl2ora"
    assert [name.partition("-")[0] for name in names] == ["fl2ora", "fl2ora"]
    assert names[1].endswith(".dist-info")


def test_the_wheel_holds_every_module_and_no_more(wheel: Path) -> None:
    rooms = [path.name for path in (ROOT / "fl2ora").iterdir() if path.is_symlink()]
    files = {
        f"fl2ora/{path.relative_to(ROOT)}"
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files |= {f"fl2ora/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    files.add("fl2ora/experiment/app.toml")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == files


def test_what_the_wheel_says_of_itself_is_true(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.partition("/")[0] for name in archive.namelist()} - {"fl2ora"}
    metadata = Metadata.from_email(archive.read(f"{info}/METADATA"), validate=False)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (metadata.name, str(metadata.version)) == ("fl2ora", project["version"])
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(metadata.provides_extra or ()) == set(project["optional-dependencies"])
    entries = archive.read(f"{info}/entry_points.txt").decode()
    assert "fl2ora = fl2ora.commands.app:main" in entries
    for line in archive.read(f"{info}/RECORD").decode().splitlines():
        name, digest, size = line.rsplit(",", 2)
        if digest:
            content = archive.read(name)
            found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={found}", str(len(content))), name


def test_a_wheel_from_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(tmp_path / "sources", filter="data")
    (sources_root,) = (tmp_path / "sources").iterdir()
    assert not [path for path in sources_root.rglob("*") if path.is_symlink()]
    assert not list(sources_root.rglob("*.pyc"))
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "deploy/compose.yaml", "tests/conftest.py"):
        assert (sources_root / name).is_file(), name
    again = _built(sources_root, tmp_path / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_command_runs_an_experiment_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    arguments = [
        "run", "--engine", "in-process", "--clients", "2", "--json",
        "--set", "dataset=shapes(styles='held-back', train=64, validation=16, test=32)",
        "--set", "partition=iid", "--set", "num-rounds=1", "--set", "resamples=0",
    ]  # fmt: skip
    (command,) = (site / "bin").iterdir()
    started = _run([sys.executable, str(command), *arguments], tmp_path, site)
    outcome = json.loads(started.stdout.splitlines()[-1])
    folder = Path(outcome["run_dir"])
    assert folder.parent == tmp_path / "runs"
    assert (folder / "summary.md").exists()
    words = ("calibrate", str(folder), "--calibrator", "temperature")
    done = Command(tmp_path, *words, code=imported_from(site) + FL2ORA).wait()
    assert "Before and after calibration" in done.stdout


def test_flower_bundles_the_installed_package(site: Path, tmp_path: Path) -> None:
    code = (
        "import io, sys, zipfile, pathlib, fl2ora\n"
        "from fl2ora.engines.ray import _app_folder\n"
        "from flwr.cli.build import build_fab_from_disk\n"
        "assert pathlib.Path(fl2ora.__file__).is_relative_to(sys.argv[1]), fl2ora.__file__\n"
        "app = _app_folder(pathlib.Path())\n"
        "print(*zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))).namelist(), sep='\\n')\n"
    )
    done = Command(tmp_path, str(site), code=imported_from(site) + code).wait()
    files = set(done.stdout.split())
    assert {"fl2ora/__init__.py", "server_app/app.py", "client_app/app.py"} <= files
    assert {"clip_tuning/assets/weights.json", "pyproject.toml", "LICENSE"} <= files


def _built(source: Path, folder: Path) -> Path:
    _run([*PIP, "wheel", *OFFLINE, "--wheel-dir", str(folder), str(source)], source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _run(
    command: Sequence[str], cwd: Path, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the installed package, or none of ours, on Python's path."""
    environment = {**os.environ, "PYTHONPATH": str(site or ""), "OMP_NUM_THREADS": "1"}
    environment.pop("FL2ORA_OUTPUT_DIR", None)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done

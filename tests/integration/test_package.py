"""The package's public names: complete, true, and loaded only when they are asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import fl2ora

ROOT = Path(__file__).resolve().parents[2]


def test_every_public_name_can_be_had_and_is_where_the_imports_say() -> None:
    assert fl2ora.__all__ == sorted(set(fl2ora.__all__))
    tree = ast.parse((ROOT / "fl2ora" / "__init__.py").read_text(encoding="utf-8"))
    checked = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fl2ora.")
        for alias in node.names
    }
    homes = {name: (f"fl2ora.{home}", name) for name, home in fl2ora._HOMES.items()}
    assert checked == homes
    assert set(fl2ora.__all__) == {*homes, "__version__"}
    for name in homes:
        value = getattr(fl2ora, name)
        assert getattr(value, "__name__", name) == name
        assert name in dir(fl2ora)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    assert not hasattr(fl2ora, "Strategie")


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fl2ora.__version__ == project["version"]


def test_importing_the_package_loads_no_library() -> None:
    code = (
        "import sys, fl2ora; fl2ora.__version__, fl2ora.__all__, dir(fl2ora);"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'torch', 'flwr', 'numpy', 'pandas', 'pydantic', 'transformers', 'ray'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_command_line_is_answered_before_torch_and_flower_are_loaded() -> None:
    code = (
        "import sys, fl2ora.commands.app;"
        "print(sorted(sys.modules.keys() & {'torch', 'flwr', 'transformers', 'ray'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fl2ora", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"fl2ora {fl2ora.__version__}\n"

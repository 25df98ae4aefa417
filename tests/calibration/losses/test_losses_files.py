"""One file, one loss; each says what it is, whence it comes, and stands in the user's page."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from losses_cases import FOLDER, NAMES, camel, loss_class, make

from fl2ora.calibration.losses.base import Loss, LossContext

PAGE = Path(__file__).parents[3] / "docs" / "losses.md"
SOURCE = re.compile(r"arXiv:\d{4}\.\d{5}|(ICML|CVPR) \d{4}|Journal of|Monthly Weather Review")


def test_there_are_files():
    assert len(NAMES) > 20
    assert {"cross_entropy", "dca", "mdca", "zs_norm", "nucfl"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_public_loss_per_file(name):
    module = importlib.import_module(f"fl2ora.calibration.losses.{name}")
    found = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Loss)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    assert [cls.__name__ for cls in found] == [camel(name)]


@pytest.mark.parametrize("name", NAMES)
def test_loss_docstring_names_its_source(name):
    text = " ".join(importlib.import_module(f"fl2ora.calibration.losses.{name}").__doc__.split())
    assert SOURCE.search(text), "no arXiv id or venue"
    kind = "A penalty" if loss_class(name).is_penalty else "A full loss"
    assert kind in text or kind.lower() in text
    arguments = inspect.signature(loss_class(name)).parameters
    documented = inspect.getdoc(loss_class(name))
    for argument in arguments:
        assert f"\n    {argument}: " in documented


@pytest.mark.parametrize("name", NAMES)
def test_defaults_suffice(name):
    loss = make(name)
    assert loss.name == name
    fields = {field.name for field in dataclasses.fields(LossContext)}
    assert loss.needs <= fields


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_imports_stay_inside_calibration(file):
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            inside = node.module.startswith("fl2ora.calibration.")
            names.add("calibration" if inside else node.module.split(".")[0])
    allowed = {"__future__", "abc", "calibration", "collections", "dataclasses", "math", "numpy"}
    assert names <= allowed | {"re", "torch", "typing"}
    assert len(file.read_text().splitlines()) <= 250


def rows():
    """Return the cells of the page's table by spec name."""
    table = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[1] in ("full", "penalty"):
            table[cells[0].strip("`").split("(")[0]] = cells
    return table


def test_page_lists_every_loss():
    assert sorted(rows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_page_is_right(name):
    spec, kind, needs = rows()[name][:3]
    parameters = inspect.signature(loss_class(name)).parameters.values()
    arguments = ", ".join(f"{p.name}={p.default!r}" for p in parameters)
    assert spec == (f"`{name}({arguments})`" if arguments else f"`{name}`")
    assert kind == ("penalty" if make(name).is_penalty else "full")
    listed = set() if needs == "–" else {word.strip(" `") for word in needs.split(",")}
    assert listed == make(name).needs

"""The page on data tells the arguments of folder and hub with their defaults."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from documented import ROOT
from fl2ora.federated_data.datasets.folder import Folder
from fl2ora.federated_data.datasets.hub import Hub

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def _rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    table = section.partition("| argument |")[2].partition("\n\n")[0]
    return [re.findall(r"`([^`]+)`", cell) for cell in re.findall(r"^\| (.*?) \| .*$", table, re.M)]


@pytest.mark.parametrize(
    ("cls", "heading", "elsewhere"),
    [
        (Folder, "Folders of images", {"path"}),
        (
            Hub,
            "The Hugging Face hub",
            {"name", "config", "revision", "test", "seed", "templates", "on_bad_image"},
        ),
    ],
)
def test_every_argument_stands_there(cls: type, heading: str, elsewhere: set[str]) -> None:
    told = {name for row in _rows(heading) for name in row}
    assert told == set(inspect.signature(cls).parameters) - elsewhere


def test_defaults_of_a_folder_are_those_of_the_code() -> None:
    section = PAGE.partition("### Folders of images\n")[2].partition("\n### ")[0]
    parameters = inspect.signature(Folder).parameters
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`.*?`) \|", section, re.M)
    assert rows
    for names, defaults in rows:
        values = [ast.literal_eval(text) for text in re.findall(r"`([^`]+)`", defaults)]
        assert values == [parameters[name].default for name in re.findall(r"`(\w+)`", names)]

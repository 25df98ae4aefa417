"""Flower's table of keys in pyproject.toml is the one written from the run config."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.flower_table import HEAD, rewritten, table, toml_value

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def test_flowers_defaults_are_ours() -> None:
    flower = tomllib.loads(PYPROJECT)["tool"]["flwr"]["app"]["config"]
    ours = RunConfig().flat()
    assert list(flower.items()) == list(ours.items())
    assert [type(v) for v in flower.values()] == [type(v) for v in ours.values()]


def test_the_table_in_the_file_is_up_to_date() -> None:
    assert rewritten(PYPROJECT) == PYPROJECT, "run make config"


def test_only_the_table_is_rewritten() -> None:
    before = f"[a]\nb = 1\n\n{HEAD}\nold = 1 # [x]\n\n"
    assert rewritten(f"{before}[c]\nd = 2\n") == f"[a]\nb = 1\n\n{table()}\n[c]\nd = 2\n"
    assert tomllib.loads(rewritten(before))["a"] == {"b": 1}
    with pytest.raises(ValueError, match="found 0"):
        rewritten("[a]\n")


def test_every_key_stands_below_its_description_and_every_group_below_a_heading() -> None:
    lines = table().splitlines()
    for name, field in RunConfig.model_fields.items():
        row = lines.index(f"{key_of(name)} = {toml_value(field.default)}")
        assert lines[row - 1] == f"# {field.description}"
        assert len(str(field.description)) > 10
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == [
        "## What is trained", "## On what", "## How", "## How it is measured", "## Machine",
        "## Output",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [True, False, 0, -5, 5e-4, 1e-05, 1e22, "", "a'b\"c\\d", "é"])
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    read = tomllib.loads(f"x = {toml_value(value)}")["x"]  # type: ignore[arg-type]
    assert read == value
    assert type(read) is type(value)

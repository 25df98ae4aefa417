"""The page on published data sets has all of them, with their defaults and folders."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from documented import ROOT
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.datasets.base import Dataset

PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+\((?!\.\.\.).*?\))` \|(.*)\|$", PAGE, re.MULTILINE)
MODULES = {name: find(parse_spec(name), Dataset).__module__ for name in available(Dataset)}
PUBLISHED = {name for name, module in MODULES.items() if ".published." in module}


def test_every_published_data_set_has_a_row() -> None:
    assert sorted(parse_spec(spec).name for spec, _ in ROWS) == sorted(PUBLISHED)


@pytest.mark.parametrize(("spec", "row"), ROWS, ids=[spec for spec, _ in ROWS])
def test_rows_have_the_defaults_and_name_the_folder(
    spec: str, row: str, miniatures: Path, published: None
) -> None:
    parsed = parse_spec(spec)
    parameters = inspect.signature(find(parsed, Dataset)).parameters.values()
    assert parsed.kwargs == {p.name: p.default for p in parameters}
    dataset = load(spec, Dataset)
    domains = [domain for domain in dataset.domains if domain != "all"]
    assert not domains or ", ".join(domains) in row
    folders = {path.name for path in miniatures.iterdir() if path.is_dir()}
    named = set(re.findall(r"`([\w-]+)/`", row))
    assert named & folders or "cifar" in parsed.name

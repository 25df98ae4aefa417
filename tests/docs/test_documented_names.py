"""Files, classes, hooks, callbacks and keys that the pages name exist; tables are the code's."""

from __future__ import annotations

import inspect
import re

import pytest

from documented import PAGES, ROOT
from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.flower_table import rewritten_page
from fl2ora.experiment.plugins import available, find
from fl2ora.experiment.spec import parse_spec
from fl2ora.server_app.callbacks.base import Callback
from fl2ora.server_app.run_plugins import DEFAULT_CALLBACKS

TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ROOMS = sorted(path.name for path in (ROOT / "fl2ora").iterdir() if path.is_symlink())
CODE = "\n".join(
    path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py")
)


def test_the_table_of_keys_is_that_of_the_code() -> None:
    page = TEXT["configuration.md"]
    assert rewritten_page(page) == page, "run make config"
    rows = re.findall(r"^\| `([a-z-]+)` \| `(.*?)` \| ", page, re.MULTILINE)
    keys = [key_of(name) for name in RunConfig.model_fields]
    assert [key for key, _ in rows if key in keys] == keys


def test_only_the_tables_of_the_page_are_rewritten() -> None:
    marks = "<!-- keys: make config -->\noutdated\n<!-- end of keys -->\n"
    new = rewritten_page(f"before\n{marks}after\n")
    assert new.startswith("before\n<!-- keys")
    assert new.endswith("<!-- end of keys -->\nafter\n")
    assert "outdated" not in new
    assert "| `num-bins` | `15` | whole number at least 1 and at most 10,000 |" in new
    assert '| `evaluate-on` | `"auto"` | `auto`, `server`, `nodes` |' in new
    with pytest.raises(ValueError, match="keys: make config"):
        rewritten_page("no marks")


@pytest.mark.parametrize("page", sorted(TEXT))
def test_files_that_are_named_exist_and_hold_what_is_named(page: str) -> None:
    rooms = "|".join([*ROOMS, "tests", "benchmarks", "configs", "docs"])
    for file, name in re.findall(rf"`((?:{rooms})/[\w/.-]+\.\w+)(?:: ([\w.]+))?`", TEXT[page]):
        if file in MADE_UP:
            continue
        assert (ROOT / file).is_file(), f"{page}: {file}"
        if name:
            content = (ROOT / file).read_text(encoding="utf-8")
            for part in name.split("."):
                assert re.search(rf"\b(def|class) {part}\b|^{part}\b", content, re.MULTILINE), (
                    f"{page}: {file}: {name}"
                )


MADE_UP = {"strategies/mine.py"}


def test_classes_and_their_parts_that_architecture_names_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)\.(\w+)(?:\(\w*\))?`", TEXT["architecture.md"]))
    assert len(named) > 15
    for cls, part in named:
        bodies = re.findall(rf"^class {cls}\b.*?(?=^class |^def |\Z)", CODE, re.M | re.S)
        assert any(re.search(rf"def {part}\b|^    {part}\b", body, re.M) for body in bodies), (
            f"{cls}.{part}"
        )


def test_architecture_has_every_room_and_what_each_may_import() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", TEXT["architecture.md"], re.MULTILINE)
    assert sorted(rows) == ROOMS


def test_callbacks_are_those_there_are_with_their_defaults() -> None:
    page = TEXT["callbacks.md"]
    rows = re.findall(r"^\| `(\w+(?:\(.*?\))?)` \| ", page.partition("## Early stop")[0], re.M)
    documented = {spec.name: spec.kwargs for spec in map(parse_spec, rows)}
    assert documented.keys() | {"averaging"} == set(available(Callback))
    for name, arguments in documented.items():
        parameters = inspect.signature(find(parse_spec(name), Callback)).parameters.values()
        assert arguments == {p.name: p.default for p in parameters}
    assert f"`{' + '.join(DEFAULT_CALLBACKS)}`" in page


def test_hooks_of_callbacks_are_all_there() -> None:
    own = {n for n, f in vars(Callback).items() if inspect.isfunction(f) and not n.startswith("_")}
    _, _, table = TEXT["callbacks.md"].partition("| hook | when |")
    assert set(re.findall(r"`(\w+)\(", table.partition("\n\n")[0])) == own


def test_a_number_measured_is_a_metric_and_no_figure() -> None:
    for page, text in TEXT.items():
        words = re.sub(r"\]\([^)]*\)|docs/figures\S*", "", text)
        assert not re.search(r"\bfigures?\b", words, re.IGNORECASE), page

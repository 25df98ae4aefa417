"""The page about strategies: its table is complete and its example runs as printed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.base import RoundPlan, RunInfo, Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.compression.base import Compression
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.updates import RESERVED_METRICS, ClientUpdate
from runs import events, run_small

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "strategies.md").read_text(encoding="utf-8")
SPEC = "my_module:MyStrategy(alpha=0.5)"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put the page's Python block into ``my_module.py`` on the path."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "my_module.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield source
    sys.modules.pop("my_module", None)


def rows() -> dict[str, str]:
    """Return name -> spec, as written, of the page's table of strategies."""
    table = PAGE.partition("## All strategies")[2].partition("\n## ")[0]
    specs = re.findall(r"^\| `([a-z_]+(?:\(.*?\))?)` \|", table, flags=re.MULTILINE)
    return {spec.partition("(")[0]: spec for spec in specs}


def spec_text(written: str) -> str:
    """Return a spec without the dots that stand for further arguments."""
    return written.replace(", ...)", ")")


def test_the_table_has_every_strategy_that_has_no_page_of_its_own() -> None:
    lora_page = (DOCS / "lora_strategies.md").read_text(encoding="utf-8")
    names = set(available(Strategy))
    assert {name for name in names if f"`{name}" not in lora_page} <= rows().keys() <= names
    assert len(rows()) >= 15


@pytest.mark.parametrize("name", rows())
def test_the_table_shows_the_defaults(name: str) -> None:
    written = rows()[name]
    spec = parse_spec(spec_text(written))
    parameters = inspect.signature(find(spec, Strategy)).parameters
    defaults = {key: p.default for key, p in parameters.items()}
    shown = defaults.keys() if written == spec_text(written) else spec.kwargs
    assert spec.kwargs == {key: defaults[key] for key in shown}


def test_the_table_of_attacks_is_complete() -> None:
    table = PAGE.partition("## Attacks")[2]
    listed = re.findall(r"^\| `([a-z_]+)(?:\(.*?\))?` \|", table, flags=re.MULTILINE)
    assert sorted(listed) == available(Attack)


def test_the_table_of_compressions_shows_every_default() -> None:
    table = PAGE.partition("## Compression")[2].partition("\n- ")[0]
    specs = map(
        parse_spec, re.findall(r"^\| `([a-z0-9_]+(?:\(.*?\))?)` \|", table, flags=re.MULTILINE)
    )
    shown = {spec.name: spec.kwargs for spec in specs}
    assert sorted(shown) == available(Compression)
    for name, defaults in shown.items():
        parameters = inspect.signature(find(parse_spec(name), Compression)).parameters
        assert defaults == {key: p.default for key, p in parameters.items()}


def test_every_hook_is_listed() -> None:
    for base in (Strategy, ClientRule):
        for name, member in vars(base).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                assert f"`{name}(" in PAGE, name


def test_every_field_is_listed() -> None:
    section = PAGE.partition("What a strategy may implement")[2].partition("## Attacks")[0]
    for kind in (RunInfo, RoundPlan, ClientUpdate, LocalStart):
        for field in fields(kind):
            assert f"`{field.name}`" in section, (kind, field.name)
    for name in (
        *RESERVED_METRICS,
        "allows_feedback",
        "least_updates",
        "needs_plain_sgd",
        "needs_residual",
    ):
        assert f"`{name}`" in section, name


def test_the_example_has_at_most_60_lines_and_keeps_the_contract(example: str) -> None:
    assert len(example.splitlines()) <= 60
    check_strategy(SPEC)
    strategy = load(SPEC, Strategy)
    assert strategy.plan(1, {}, "ab").rule == "my_module:MyRule(clip=1.0)"
    with pytest.raises(UserError, match="valid arguments: alpha, clip"):
        load("my_module:MyStrategy(alhpa=1)", Strategy)


@pytest.mark.usefixtures("example")
def test_the_example_runs(tmp_path: Path) -> None:
    spec = "my_module:MyStrategy(clip=0.001)"
    folder = run_small(tmp_path, clients=2, strategy=spec, num_rounds=2)
    counts = [(e["client"], e["round"], e["clipped"]) for e in events(folder, "client")]
    assert [count[:2] for count in counts] == [("0", 1), ("1", 1), ("0", 2), ("1", 2)]
    assert all(
        0 <= first[2] <= second[2] for first, second in zip(counts, counts[2:], strict=False)
    )
    assert counts[-1][2] > 0

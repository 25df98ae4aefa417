"""docs/lora_strategies.md says what there is, with the defaults it has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy

PAGE = (Path(__file__).parents[2] / "docs" / "lora_strategies.md").read_text(encoding="utf-8")


def test_the_table_has_every_strategy_with_its_defaults() -> None:
    rows = re.findall(r"^\| `(\w+\(.*?\))` \|", PAGE, flags=re.MULTILINE)
    documented = {spec.name: spec.kwargs for spec in map(parse_spec, rows)}
    classes = {name: find(parse_spec(name), Strategy) for name in available(Strategy)}
    actual = {
        name: {p.name: p.default for p in inspect.signature(cls).parameters.values()}
        for name, cls in classes.items()
        if issubclass(cls, LoRAStrategy)
    }
    assert len(actual) == 12
    assert documented == actual


def test_plug_ins_named_in_examples_exist() -> None:
    specs = re.findall(r"strategy=(['\"])(.+?)\1 ", PAGE)
    assert len(specs) == 3
    for _, spec in specs:
        assert isinstance(load(spec, Strategy), LoRAStrategy)


def test_the_metrics_are_the_ones_a_run_records() -> None:
    root = Path(__file__).parents[2]
    code = "".join(
        (root / name).read_text(encoding="utf-8")
        for name in ("server_app/factor_losses.py", "strategies/lora/_residuals.py")
    )
    metrics = re.findall(r"^\| `(lora_\w+)` \|", PAGE, flags=re.MULTILINE)
    assert len(metrics) == 5
    assert all(f'"{name}"' in code for name in metrics)

"""Every method has a learning rate to start from, and the documentation names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fl2ora.clip_tuning.learning_rates import learning_rate_for
from fl2ora.clip_tuning.methods.base import NOTHING_TRAINED, TuningMethod
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load

DOCS = Path(__file__).resolve().parents[2] / "docs"
VIT = "openai/clip-vit-base-patch16"
METHODS = available(TuningMethod)


def rows(heading: str, text: str) -> dict[str, list[str]]:
    """Return the cells of the first table behind ``heading`` by the spec in its first column."""
    table = text.partition(heading)[2].partition("\n\n|")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells if row[0].startswith("`")}


@pytest.mark.parametrize("method", METHODS)
def test_the_documented_rate_is_the_one_a_run_gets(method: str) -> None:
    documented = rows("## Learning rates", (DOCS / "training.md").read_text(encoding="utf-8"))
    rates = load(method, TuningMethod).learning_rates
    assert rates is not None
    assert rates.source
    if rates is NOTHING_TRAINED:
        assert method not in documented
        return
    embedded, published, source = documented["coop" if method == "prompt" else method]
    assert source == rates.source
    assert learning_rate_for(method, "embedded") == float(embedded)
    assert learning_rate_for(method, VIT) == float(published)


def test_embedded_rates_are_those_chosen_in_the_tuning_table() -> None:
    found = rows("styles it never saw", (DOCS / "tuning.md").read_text(encoding="utf-8"))
    chosen = {spec: float(cells[0]) for spec, cells in found.items() if cells[0] != "-"}
    bare = {spec: rate for spec, rate in chosen.items() if re.fullmatch(r"\w+", spec)}
    assert bare.keys() == {*METHODS} - {"zero_shot", "tip_adapter", "lora_residual", "prompt"}
    for spec, rate in bare.items():
        assert learning_rate_for(spec, "embedded") == (0.1 if spec == "lora" else rate), spec


def test_arguments_of_a_method_do_not_matter() -> None:
    assert learning_rate_for("lora(rank=8, towers='text')", "embedded") == 0.1
    assert learning_rate_for("prompt(length=4)", "/models/vit") == 0.002


def test_wrapping_method_inherits_learning_rate() -> None:
    assert learning_rate_for("logit_scale('lora')", "embedded") == 0.1
    assert learning_rate_for("logit_scale('maple')", VIT) == 0.0035
    assert learning_rate_for("logit_scale", "embedded") == 0.03
    assert learning_rate_for("logit_scale('tip_adapter')", "embedded") == 0.03
    assert learning_rate_for("lora_residual", "embedded") == learning_rate_for("lora", "embedded")


def test_a_rate_that_is_given_wins() -> None:
    assert learning_rate_for("lora", "embedded", "sgd(momentum=0.0)", 0.7) == 0.7
    assert learning_rate_for("lora", "embedded", "adamw", 0.7) == 0.7


@pytest.mark.parametrize("optimiser", ["sgd", "sgd(momentum=0.0)", "torch.optim:SGD(momentum=0.5)"])
def test_the_defaults_are_for_sgd(optimiser: str) -> None:
    assert learning_rate_for("lora", "embedded", optimiser) == 0.1


@pytest.mark.parametrize("optimiser", ["adamw", "torch.optim:RMSprop(alpha=0.9)", "my.lab:SGD"])
def test_another_optimiser_needs_a_rate_of_its_own(optimiser: str) -> None:
    with pytest.raises(UserError, match=r"learning-rate: expected a number above 0, .* for sgd"):
        learning_rate_for("lora", "embedded", optimiser)


class Mine(TuningMethod):
    """A method without a rate."""

    def attach(self, clip, class_names, templates):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def test_a_method_without_a_default_needs_one() -> None:
    spec = f"{__name__}:Mine"
    with pytest.raises(UserError, match=r"as method = .*:Mine' has none of its own, found 0"):
        learning_rate_for(spec, "embedded")
    assert learning_rate_for(spec, "embedded", given=0.5) == 0.5


@pytest.mark.parametrize("given", [-0.1, float("nan"), float("inf")])
def test_negative_or_infinite_learning_rates_are_refused(given: float) -> None:
    with pytest.raises(UserError, match="learning-rate: expected a finite number of at least 0"):
        learning_rate_for("lora", "embedded", given=given)

"""Plug-ins of one's own that go wrong: whoever did is named, with file, line and what was wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.clip_tuning.methods.layer_norm import LayerNorm
from fl2ora.clip_tuning.schedules.base import Progress
from fl2ora.clip_tuning.schedules.constant import Constant
from fl2ora.experiment.blame import blaming_whoever
from fl2ora.experiment.errors import UserError
from fl2ora.server_app.callbacks.base import Callback, RunContext
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.updates import ClientUpdate
from runs import events, run_small

TINY = {
    "dataset": "shapes(styles='held-back', train=24, validation=8, test=16)",
    "num_rounds": 1, "resamples": 0, "calibration_fraction": 0.3,
}  # fmt: skip


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("boom")


class Accepts(FedAvg):
    accepts = fail


class Aux(FedAvg):
    def plan(self, *arguments: Any) -> RoundPlan:
        return replace(super().plan(*arguments), aux={"a": "b"})  # type: ignore[dict-item]


class Starts(FedAvg):
    def plan(self, *arguments: Any) -> RoundPlan:
        return replace(super().plan(*arguments), starts=lambda _: None)  # type: ignore[arg-type,return-value]


class Aggregates(FedAvg):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Any:
        list(updates)


class State(FedAvg):
    def state(self) -> Any:
        return {"a": "b"}


class Attaches(LayerNorm):
    attach = fail


class AttachesNothing(LayerNorm):
    def attach(self, *_: Any) -> Any:
        return None


class Weighs(LayerNorm):
    round_weights = fail


class Parts(Callback):
    parts = property(fail)  # type: ignore[assignment]


class Needs(Temperature):
    needs = 5  # type: ignore[assignment]


class Sums(Temperature):
    def statistics(self, *_: Any, **__: Any) -> Any:
        return None


class Checks(Temperature):
    check_sums = fail


class Applies(Temperature):
    apply = fail


class Climbs(Constant):
    def factor(self, at: Progress) -> float:
        return -1.0 if at.round == 1 else 2.0


class Mixes(CrossEntropy):
    mixes = property(fail)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("key", "name", "reason"),
    [
        ("strategy", "Accepts", "RuntimeError: boom"),
        ("strategy", "Aux", "TypeError: expected tensors by name, found str under 'a'"),
        ("strategy", "Starts", "TypeError: expected tensors by name, found NoneType"),
        ("strategy", "Aggregates", "TypeError: expected tensors by name, found NoneType"),
        ("strategy", "State", "TypeError: expected tensors by name, found str under 'a'"),
        ("method", "Attaches", "RuntimeError: boom"),
        ("method", "AttachesNothing", "TypeError: attach: expected a ClipClassifier, found NoneT"),
        ("method", "Weighs", "RuntimeError: boom"),
        ("callbacks", "Parts", "RuntimeError: boom"),
        ("calibrator", "Needs", "TypeError: "),
        ("calibrator", "Sums", "TypeError: expected tensors by name, found NoneType"),
        ("calibrator", "Checks", "RuntimeError: boom"),
        ("calibrator", "Applies", "RuntimeError: boom"),
        ("loss", "Mixes", "RuntimeError: boom"),
        ("schedule", "Climbs", "expected a factor above 0 and at most 1, found -1.0 in round 1"),
    ],
)
def test_whoever_fails_on_the_server_is_named(
    tmp_path: Path, key: str, name: str, reason: str
) -> None:
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, clients=2, **{**TINY, key: f"test_foreign_plugins:{name}"})
    assert f"test_foreign_plugins:{name}: {reason}" in str(caught.value)
    assert (tmp_path / "runs" / "run" / "global.safetensors").exists() == (
        key == "calibrator" and name != "Needs"
    )


class Loses(CrossEntropy):
    evaluate = fail


class Moves(Constant):
    def factor(self, at: Progress) -> float:
        return fail() if at.steps > 1 else 1.0  # type: ignore[no-any-return]


class Begins(ClientRule):
    begin = fail


class Sends(FedAvg):
    def plan(self, *arguments: Any) -> RoundPlan:
        return replace(super().plan(*arguments), rule="test_foreign_plugins:Begins")


@pytest.mark.parametrize(
    ("key", "spec", "name"),
    [
        ("loss", "test_foreign_plugins:Loses", "Loses"),
        ("loss", "cross_entropy + 2*test_foreign_plugins:Loses", "Loses"),
        ("schedule", "test_foreign_plugins:Moves", "Moves"),
        ("strategy", "test_foreign_plugins:Sends", "Begins"),
    ],
)
def test_whoever_fails_on_a_node_is_named(tmp_path: Path, key: str, spec: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        run_small(tmp_path, clients=2, **{**TINY, "batch_size": 2, key: spec})
    (reason,) = {e["reason"] for e in events(tmp_path / "runs" / "run", "drop")}
    assert "RuntimeError: boom" in reason
    assert "test_foreign_plugins.py:" in reason
    assert str(caught.value).endswith(f"such as of client 1: {reason}")


class Divides(Callback):
    def on_end(self, run: RunContext) -> None:
        _ = 1 / 0


def test_the_innermost_plug_in_from_outside_is_blamed_and_nobody_else() -> None:
    outer, inner, ours = Aggregates(), Divides(), FedAvg()
    words = r"test_foreign_plugins:Divides: ZeroDivisionError: .*test_foreign_plugins\.py:\d+\)$"
    for plugins in ((ours, outer, inner), (inner, outer, ours)):
        with pytest.raises(UserError, match=words), blaming_whoever(*plugins):
            inner.on_end(None)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError), blaming_whoever(ours):
        _ = 1 / 0
    with pytest.raises(UserError, match=r"^mine$"), blaming_whoever(outer):
        raise UserError("mine")


class Saves(LayerNorm):
    save = fail


class EndsBadly(Callback):
    on_end = fail


class Ends(Callback):
    def on_end(self, run: RunContext) -> None:
        (run.folder / "ended").touch()


def test_what_training_made_stays_where_the_export_fails(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_foreign_plugins:Saves: RuntimeError: boom"):
        run_small(
            tmp_path,
            clients=2,
            method="test_foreign_plugins:Saves",
            **{**TINY, "callbacks": "summary"},
        )
    folder = tmp_path / "runs" / "run"
    for name in ("global.safetensors", "logits.safetensors", "metrics.csv", "summary.md"):
        assert (folder / name).exists(), name
    assert not (folder / "adapter").exists()


def test_a_callback_that_fails_at_the_end_keeps_no_other_from_its_work(tmp_path: Path) -> None:
    callbacks = "test_foreign_plugins:EndsBadly + test_foreign_plugins:Ends"
    with pytest.raises(UserError, match="test_foreign_plugins:EndsBadly: RuntimeError: boom"):
        run_small(tmp_path, clients=2, **TINY, callbacks=callbacks)
    assert (tmp_path / "runs" / "run" / "ended").exists()

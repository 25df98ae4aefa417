"""``fl2ora pretrain``: one that is cut off ends as one that was not, and its model is tuned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fl2ora.commands.app import cli
from fl2ora.experiment.errors import UserError
from fl2ora.pretraining.pretrain import PROGRESS, RECORD, pretrain
from fl2ora.pretraining.recipe import Recipe, recipe_of
from runs import run_small

CONTENT = {
    "image-side": 16, "patch": 8, "image-width": 8, "image-blocks": 1, "image-heads": 2,
    "text-width": 8, "text-blocks": 1, "text-heads": 2, "joint": 4, "vocabulary": 300,
    "drawings": 1, "batch-size": 16, "steps": 6, "learning-rate": 0.01,
}  # fmt: skip


class CutError(Exception):
    """Stands for what ends a process."""


def cut_after(steps: int, recipe: Recipe, output: Path) -> None:
    def told(step: int, loss: float) -> None:
        if step == steps:
            raise CutError

    with pytest.raises(CutError):
        pretrain(recipe, output, told)


def test_one_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 2)
    recipe = recipe_of(CONTENT)
    whole = pretrain(recipe, tmp_path / "whole")
    cut_after(3, recipe, tmp_path / "cut")
    seen: list[int] = []
    again = pretrain(recipe, tmp_path / "cut", lambda step, loss: seen.append(step))
    assert seen == [3, 4, 5, 6]  # from the step that was saved
    assert (again.loss, again.steps) == (whole.loss, 6)
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "cut" / PROGRESS).exists()
    record = json.loads((tmp_path / "cut" / RECORD).read_text())
    assert record["recipe"]["steps"] == 6


def test_another_recipe_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 1)
    cut_after(2, recipe_of(CONTENT), tmp_path / "x")
    with pytest.raises(UserError, match="expected the recipe that was begun"):
        pretrain(recipe_of({**CONTENT, "learning-rate": 0.02}), tmp_path / "x")


def test_a_folder_with_anything_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"expected a new or empty folder, found notes\.txt"):
        pretrain(recipe_of(CONTENT), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_command_makes_a_model_that_a_run_tunes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("".join(f"{key} = {value}\n" for key, value in CONTENT.items()))
    output = tmp_path / "clip"
    arguments = ["pretrain", str(recipe), "--output", str(output), "--threads", "1"]
    first, again = (CliRunner().invoke(cli, arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert "step 6 of 6: loss" in first.output
    assert isinstance(again.exception, UserError)
    assert "found a model that is done" in str(again.exception)
    run = run_small(tmp_path, model=str(output), num_rounds=1, callbacks="none")
    assert (run / "global.safetensors").exists()

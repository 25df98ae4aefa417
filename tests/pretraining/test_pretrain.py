"""``fl2ora pretrain``: one that is cut off ends as one that was not, and its model is tuned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.clip_tuning.preprocessor_file import FILE
from fl2ora.clip_tuning.tiny_clip import new_model, new_preprocessor, new_tokenizer
from fl2ora.commands.app import cli
from fl2ora.experiment.errors import UserError
from fl2ora.pretraining.pairs import Pairs, batches, distinct
from fl2ora.pretraining.pretrain import PROGRESS, RECORD, Pretrained, _sources, pretrain
from fl2ora.pretraining.recipe import Recipe, recipe_of
from fl2ora.pretraining.sources import CaptionedFolder, Clothes, Drawings
from fl2ora.pretraining.training import Training, contrastive_loss, encode
from miniature_fashion import write_miniature
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
    assert recipe_of(record["recipe"]) == recipe


def test_seed_rate_and_sizes_of_the_recipe_are_those_of_the_model(tmp_path: Path) -> None:
    """With a rate of nearly nothing the seed's first weights stay, and the first loss is theirs."""
    sizes = {"vocabulary": 310, "context": 12, "steps": 1, "learning-rate": 1e-9, "seed": 5}
    recipe = recipe_of({**CONTENT, **sizes})
    done = pretrain(recipe, tmp_path / "x")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "x")
    assert (len(tokenizer), tokenizer.model_max_length) == (310, 12)
    assert json.loads((tmp_path / "x" / FILE).read_text()) == new_preprocessor(16)
    model = new_model(tokenizer, 5, recipe.architecture())
    found = load_file(tmp_path / "x" / "model.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-7)
    preprocessing = Preprocessing.from_config(new_preprocessor(16), 16)
    first = distinct(next(batches([(Drawings(), 16)], preprocessing, seed=5)), tokenizer)
    features = encode(model.train(), tokenizer, first)
    expected = contrastive_loss(*features, first.caption_of, model.logit_scale)
    assert done.loss == pytest.approx(expected.item(), rel=1e-5)


def test_batches_differ_and_each_is_that_of_its_number() -> None:
    preprocessing = Preprocessing.from_config(new_preprocessor(16), 16)
    all_of_them = batches([(Drawings(), 8)], preprocessing, seed=0)
    first, second = next(all_of_them), next(all_of_them)
    again = next(batches([(Drawings(), 8)], preprocessing, seed=0, first=1))
    assert not torch.equal(first.pixels, second.pixels)
    assert torch.equal(second.pixels, again.pixels)
    assert second.captions == again.captions


def test_a_batch_is_drawn_from_the_recipe_s_sources(tmp_path: Path) -> None:
    write_miniature(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\n")
    shares = {"drawings": 0.25, "clothes": 0.125, "batch-size": 16, "templates": ["my {}!"]}
    folders = {"fashion-mnist": str(tmp_path), "captioned": str(tmp_path)}
    found = _sources(recipe_of({**CONTENT, **shares, **folders}))
    assert [(type(source), count) for source, count in found] == [
        (Drawings, 4), (Clothes, 2), (CaptionedFolder, 10)
    ]  # fmt: skip
    clothes, captioned = found[1][0].pictures(), found[2][0]
    assert clothes is not None
    assert clothes[300, 0, 0, :2].tolist() == [1, 44]  # number 300 of the miniature's images
    assert captioned.captions() == {"my x!"}


def test_the_loss_that_is_told_at_the_end_is_the_mean_of_fifty_steps(tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = recipe_of({**CONTENT, "steps": 55, "batch-size": 4})
    done = pretrain(recipe, tmp_path, lambda step, loss: losses.append(loss))
    assert len(losses) == 55
    assert done.loss == pytest.approx(sum(losses[5:]) / 50, rel=1e-12)
    assert json.loads((tmp_path / RECORD).read_text())["loss"] == done.loss


def test_a_kill_while_it_saves_leaves_what_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 1)
    recipe = recipe_of(CONTENT)
    cut_after(2, recipe, tmp_path)
    (tmp_path / f".{PROGRESS}.part").write_bytes(b"half")
    seen: list[int] = []
    pretrain(recipe, tmp_path, lambda step, loss: seen.append(step))
    assert seen == [3, 4, 5, 6]
    assert not (tmp_path / f".{PROGRESS}.part").exists()


def test_another_recipe_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 1)
    cut_after(2, recipe_of(CONTENT), tmp_path / "x")
    with pytest.raises(UserError, match="expected the recipe that was begun"):
        pretrain(recipe_of({**CONTENT, "learning-rate": 0.02}), tmp_path / "x")


def test_a_damaged_beginning_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 1)
    recipe = recipe_of(CONTENT)
    cut_after(1, recipe, tmp_path)
    path = tmp_path / PROGRESS
    with safe_open(path, "pt") as file:
        described = file.metadata()
    tensors = load_file(path)
    some = "exp_avg.visual_projection.weight"
    for changed, said in (
        ({name: t for name, t in tensors.items() if name != some}, described),
        ({**tensors, some: torch.zeros(3)}, described),
        ({**tensors, "model.visual_projection.weight": torch.zeros(3)}, described),
        (tensors, {"recipe": described["recipe"]}),
        (tensors, {**described, "last-epoch": "5"}),
        (tensors, {**described, "groups": "{"}),
    ):
        save_file(changed, path, said)
        with pytest.raises(UserError, match=r"found it damaged \(.*remove the folder"):
            pretrain(recipe, tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"expected a safetensors file, .*; remove the folder"):
        pretrain(recipe, tmp_path)


@pytest.mark.parametrize("changed", ["captions", "pictures"])
def test_other_captions_or_pictures_do_not_go_on(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl2ora.pretraining.pretrain.SAVE_EVERY", 1)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\n")
    recipe = recipe_of({**CONTENT, "drawings": 0, "captioned": str(tmp_path)})
    cut_after(1, recipe, tmp_path / "x")
    if changed == "captions":
        (tmp_path / "metadata.csv").write_text("file_name,text\na.png,y\n")
    else:
        Image.new("RGB", (4, 4), (1, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has changed, or its captions or pictures"):
        pretrain(recipe, tmp_path / "x")


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fl2ora.pretraining.training.contrastive_loss", lambda *_: torch.tensor(math.nan)
    )
    with pytest.raises(UserError, match="step 1: expected a finite loss, found nan"):
        pretrain(recipe_of(CONTENT), tmp_path / "x")


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("fl2ora.pretraining.pretrain.new_model", refuse)
    with pytest.raises(UserError, match="not enough memory for the recipe"):
        pretrain(recipe_of(CONTENT), tmp_path / "x")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    pretrain(recipe_of({**CONTENT, "steps": 1}), tmp_path / "link")
    assert (tmp_path / "there" / RECORD).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_what_cannot_be_replaced_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(UserError, match="expected a folder within one that can be written to"):
        pretrain(recipe_of(CONTENT), tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match="expected a folder within one that can be written to"):
        pretrain(recipe_of(CONTENT), tmp_path / "new" / "x")
    assert list(tmp_path.iterdir()) == []


def test_captions_of_the_same_tokens_are_one() -> None:
    tokenizer = new_tokenizer(["a cat."], 300, context=6)
    captions = ["A Cat.", "a cat.", "a dog", "xyzuvw", "xyzuvwXYZ"]
    found = distinct(Pairs(torch.zeros(0), captions, torch.tensor([4, 1, 0, 2, 3, 4])), tokenizer)
    assert found.captions == ["A Cat.", "a dog", "xyzuvw"]
    assert found.caption_of.tolist() == [2, 0, 0, 1, 2, 2]


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


def test_the_command_tells_the_mean_loss_of_each_25_steps_and_the_threads_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(recipe: Recipe, output: Path, told: Callable[[int, float], None]) -> Pretrained:
        for step in range(first, recipe.steps + 1):
            told(step, float(step))
        return Pretrained(1234, recipe.steps, 7.0, 90.0)

    first, threads = 1, list[int]()
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr("fl2ora.pretraining.pretrain.pretrain", train)
    (tmp_path / "recipe.toml").write_text("drawings = 1\nsteps = 60\n")
    words = ["pretrain", str(tmp_path / "recipe.toml"), "--output", "x", "--threads", "3"]
    found = CliRunner().invoke(cli, words, catch_exceptions=False).output.splitlines()
    assert found[:3] == [
        "step 25 of 60: loss 13.000", "step 50 of 60: loss 38.000", "step 60 of 60: loss 55.500"
    ]  # fmt: skip
    assert found[3].startswith("1,234 parameters, loss 7.000, 1.5 minutes.")
    assert f"--set model={Path.cwd() / 'x'}'" in found[3]
    assert threads == [3]
    first = 51
    found = CliRunner().invoke(cli, words, catch_exceptions=False).output.splitlines()
    assert found[:2] == ["goes on after step 50", "step 60 of 60: loss 55.500"]


def test_updates_are_bounded_and_only_matrices_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = new_tokenizer(["a cat.", "a dog."], 300)
    model = new_model(tokenizer, 0, recipe_of(CONTENT).architecture())
    with torch.no_grad():
        model.logit_scale.fill_(6.0)
    seen: list[tuple[float, float, dict[int, float]]] = []

    def step(optimizer: torch.optim.AdamW, *_: object) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        decay = {p.ndim: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        norm = torch.stack([g.norm() for g in gradients]).norm()
        seen.append((float(norm), optimizer.param_groups[0]["lr"], decay))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(pixels, ["a cat.", "a dog."], torch.tensor([0, 1, 1, 0]))
    Training(model, tokenizer, steps=20, learning_rate=0.5).run(iter([pairs] * 20))
    assert max(norm for norm, *_ in seen) <= 1 + 1e-4
    rates = [rate for _, rate, _ in seen]
    assert rates.index(max(rates)) == 1  # a tenth
    assert max(rates) == pytest.approx(0.5)
    assert seen[0][2] == {0: 0.0, 1: 0.0, 2: 0.05, 4: 0.05}
    assert model.logit_scale.item() == pytest.approx(math.log(100))

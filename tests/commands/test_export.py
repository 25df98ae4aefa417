"""``fl2ora export``: what other libraries make of the folder, and what cannot be exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, CLIPModel
from typer.testing import CliRunner, Result

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.clip import image_fit, load_clip
from fl2ora.clip_tuning.contract_probe import moved
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.saved_classifier import SavedClassifier
from fl2ora.commands.app import cli
from fl2ora.commands.calibrate import calibrate
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.shares import load_federation
from fl2ora.results.loading import source_at
from fl2ora.results.saved_run import load_run
from runs import SMALL, run_small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return run_small(root, clients=2, num_rounds=1, calibrator="temperature", callbacks="none")


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return load_federation(SMALL["dataset"], "in_distribution").parts[0].images


def of_method(finished: Path, folder: Path, method: str) -> Path:
    """Return a copy of a run whose adapter is another method's, far from where it began."""
    run = Path(shutil.copytree(finished, folder))
    content = json.loads((run / "run.json").read_text())
    content["config"]["method"] = method
    (run / "run.json").write_text(json.dumps(content))
    shutil.rmtree(run / "adapter")
    saved = SavedClassifier.load(finished / "adapter")
    classifier = moved(
        build_classifier("embedded", method, saved.class_names, saved.templates, saved.seed)
    )
    load(method, TuningMethod).save(classifier, run / "adapter")
    SavedClassifier("embedded", method, saved.seed, saved.class_names, saved.templates).save(
        run / "adapter"
    )
    return run


def typed(*words: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, words)])


def outcome(*words: object) -> dict[str, Any]:
    found = typed(*words, "--json")
    assert found.exception is None, found.exception
    return dict(json.loads(found.stdout.splitlines()[-1]))


@torch.no_grad()
def transformers_logits(
    model: Any, folder: Path, run: Path, images: LabelledImages
) -> torch.Tensor:
    """Return what transformers' own forward gives for the run's only template."""
    saved = SavedClassifier.load(run / "adapter")
    prompts = [saved.templates[0].format(name) for name in saved.class_names]
    ids = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    pixels = load_clip("embedded").preprocessing.evaluation(images.images[:8])
    found: torch.Tensor = model.eval()(
        pixel_values=pixels, input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
    ).logits_per_image
    return found


MERGED = ["lora(dora=True)", "lora_residual", "layer_norm", "logit_scale('lora(rank=1)')"]


@pytest.mark.parametrize("method", MERGED)
def test_a_merged_clip_gives_transformers_the_runs_logits(
    finished: Path, images: LabelledImages, tmp_path: Path, method: str
) -> None:
    run = of_method(finished, tmp_path / "run", method)
    said = outcome(run, tmp_path / "out")
    assert said["largest_difference"] <= 1e-5
    expected = load_run(run).classifier(calibrator="none").logits(images.images[:8])
    model = CLIPModel.from_pretrained(tmp_path / "out")
    found = transformers_logits(model, tmp_path / "out", run, images)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5 * 100)
    untuned = transformers_logits(load_clip("embedded").model, tmp_path / "out", run, images)
    assert float((untuned - expected).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("method", "kind"),
    [("coop", "merged"), ("linear_probe", "merged"), ("vpt", "merged"), ("task_res", "peft")],
)
def test_what_neither_can_hold_is_refused_by_name(
    finished: Path, tmp_path: Path, method: str, kind: str
) -> None:
    run = of_method(finished, tmp_path / "run", method)
    found = typed(run, tmp_path / "out", "--format", kind)
    assert isinstance(found.exception, UserError)
    message = str(found.exception)
    assert message.startswith(f"format {kind}: ")
    assert method in message
    assert "'fl2ora predict' and 'fl2ora evaluate'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("method", ["lora(rank=3, alpha=2.0)", "lora_residual"])
def test_a_peft_folder_gives_peft_the_runs_logits(
    finished: Path, images: LabelledImages, tmp_path: Path, method: str
) -> None:
    run = of_method(finished, tmp_path / "run", method)
    outcome(run, tmp_path / "out", "--format", "peft")
    clip = load_clip("embedded")
    theirs = PeftModel.from_pretrained(clip.model, str(tmp_path / "out"))
    clip.tokenizer.save_pretrained(tmp_path / "tokenizer")
    found = transformers_logits(theirs, tmp_path / "tokenizer", run, images)
    expected = load_run(run).classifier(calibrator="none").logits(images.images[:8])
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5 * 100)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("bitfit", "expected a method that peft knows, such as lora, found 'bitfit'"),
        ("logit_scale('lora(rank=1)')", r"tunes more than what peft loads .* try --format merged"),
    ],
)
def test_what_peft_cannot_hold_is_refused_by_name(
    finished: Path, tmp_path: Path, method: str, message: str
) -> None:
    run = of_method(finished, tmp_path / "run", method)
    found = typed(run, tmp_path / "out", "--format", "peft")
    assert isinstance(found.exception, UserError)
    with pytest.raises(UserError, match=message):
        raise found.exception
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["merged", "peft"])
def test_an_exported_folder_predicts_with_its_calibrator_wherever_it_lies(
    finished: Path, images: LabelledImages, tmp_path: Path, kind: str
) -> None:
    outcome(finished, tmp_path / "out", "--format", kind)
    moved_to = (tmp_path / "out").rename(tmp_path / "elsewhere")
    found = source_at(moved_to).predictor()
    expected = load_run(finished).classifier()
    assert found.calibrator is not None
    assert found.calibrator.spec == "temperature"
    ours, theirs = (p.predict(images.images[:8]).confidence for p in (found, expected))
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)
    assert image_fit(str(moved_to)) == found.fit if kind == "merged" else True


def test_the_card_has_accuracy_and_calibration_before_and_after(
    finished: Path, tmp_path: Path
) -> None:
    outcome(finished, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    record = load_run(finished).metrics.set_index(["source", "round"])
    for key in (("server-test", 0), ("server-test", 1), ("server-test-calibrated", 1)):
        row = record.loc[key]
        assert f"| {100 * row['accuracy']:.2f} % |" in card
        assert (
            f"| {100 * row['ece']:.2f} % [{100 * row['ece_low']:.2f}, {100 * row['ece_high']:.2f}]"
            in card
        )
    last = record.loc[("server-test", 1)]
    low, high = 100 * last["accuracy_low"], 100 * last["accuracy_high"]
    assert (
        f"Accuracy after training: {100 * last['accuracy']:.2f} % [{low:.2f}, {high:.2f}]" in card
    )
    assert f"- dataset: `{SMALL['dataset']}`" in card
    assert "- method: `lora`" in card
    assert "holds the calibrator, `temperature`" in card
    assert 'AutoModel.from_pretrained("out")' in card


def test_a_calibrator_that_reads_the_untuned_clip_is_left_out_of_a_merged_one(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    calibrate(run, "sals")
    words = ["--calibrator", "sals"]
    assert "left out: it reads the untuned CLIP" in typed(run, tmp_path / "out", *words).output
    assert not (tmp_path / "out" / "calibrator").exists()
    outcome(run, tmp_path / "peft", "--format", "peft", *words)
    assert (tmp_path / "peft" / "calibrator" / "calibrator.json").exists()


def test_what_is_in_the_way_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path, what in ((tmp_path / "full", "a folder"), (tmp_path / "full" / "file", "a file")):
        found = typed(finished, path)
        assert f"expected a folder that is new, found {what}" in str(found.exception)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    inside = typed(finished, finished / "adapter" / "new")
    assert "expected a folder outside of the run's" in str(inside.exception)
    alone = shutil.copytree(finished / "adapter", tmp_path / "alone")
    assert "found an adapter alone" in str(typed(alone, tmp_path / "out").exception)

"""``fl2ora predict`` as it is typed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fl2ora.commands.app import cli
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.shares import load_federation
from fl2ora.results.saved_run import load_run
from runs import SMALL, run_small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return run_small(root, clients=2, num_rounds=1, calibrator="temperature", callbacks="none")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    images = load_federation(SMALL["dataset"], "in_distribution").parts[0].images.images
    for number in range(5):
        pixels = images[number].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def typed(*words: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, words)])


def outcome(*words: object) -> dict[str, Any]:
    found = typed(*words, "--json")
    assert found.exception is None, found.exception
    return dict(json.loads(found.stdout.splitlines()[-1]))


def test_classes_and_confidences_are_those_of_the_classifier(finished: Path, photos: Path) -> None:
    said = outcome(finished, photos, "--top", 3)
    run = load_run(finished)
    classifier = run.classifier()
    images = load_federation(SMALL["dataset"], "in_distribution").parts[0].images.images
    expected = classifier.predict(images[:5])
    assert said["calibrator"] == "temperature"
    assert said["abstain_below"] is None
    assert said["bad"] == {}
    for number, row in enumerate(said["images"]):
        assert row["image"] == str(photos / f"{number}.png")
        order = expected.probabilities[number].argsort(descending=True)[:3].tolist()
        assert [guess["class"] for guess in row["top"]] == [
            classifier.class_names[index] for index in order
        ]
        assert row["class"] == row["top"][0]["class"]
        assert row["confidence"] == pytest.approx(float(expected.confidence[number]), abs=1e-5)


def test_without_calibrator_confidence_is_the_softmaxs(finished: Path, photos: Path) -> None:
    said = outcome(finished, photos / "0.png", "--calibrator", "none")
    logits = load_run(finished).logits.central["server-test"].logits[0]
    assert said["calibrator"] is None
    top = float(logits.double().softmax(dim=0).max())
    assert said["images"][0]["confidence"] == pytest.approx(top, abs=1e-5)


def test_below_the_threshold_there_is_no_answer(finished: Path, photos: Path) -> None:
    every = [row["confidence"] for row in outcome(finished, photos)["images"]]
    between = sum(sorted(every)[1:3]) / 2
    said = outcome(finished, photos, "--abstain-below", between)
    assert [row["class"] is None for row in said["images"]] == [c < between for c in every]
    assert all(row["top"][0]["class"] for row in said["images"])
    assert "no answer" in typed(finished, photos, "--abstain-below", between).output


def test_a_wanted_accuracy_chooses_the_threshold_and_says_on_which_images(
    finished: Path, photos: Path
) -> None:
    said = outcome(finished, photos, "--accuracy", 0.4)
    chosen = said["chosen_on"]
    assert (chosen["data"], chosen["images"]) == ("server-test", 64)
    part = load_run(finished).logits.central["server-test"]
    fitted = load_run(finished).calibrator
    assert fitted is not None
    answered = fitted.confidence(part.logits) >= said["abstain_below"]
    right = part.logits.argmax(dim=1) == part.labels
    assert chosen["answered"] == pytest.approx(float(answered.double().mean()))
    assert chosen["accuracy"] == pytest.approx(float(right[answered].double().mean()))
    assert chosen["accuracy"] > chosen["at_least"] >= 0.4
    text = " ".join(typed(finished, photos, "--accuracy", 0.4).output.split())
    assert "at least 40 % of the answers are right, with a certainty of 95 %" in text
    assert "on images like the 64 of server-test" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accuracy", "0.999"], r"accuracy: expected at most 0\.\d+, which is all that the 64 i"),
        (["--accuracy", "1"], "--accuracy: expected a number between 0 and 1, found 1.0"),
        (["--accuracy", "nan"], "--accuracy: expected a number between 0 and 1, found nan"),
        (["--abstain-below", "7"], "--abstain-below: expected a number between 0 and 1, found 7"),
        (["--accuracy", "0.5", "--abstain-below", "0.5"], "--accuracy: expected no --abstain"),
        (["--device", "gpu"], "device: expected auto, cpu, .* found 'gpu'"),
        (["--calibrator", "platt"], "expected the fitted calibrator 'platt', found temperature"),
    ],
)
def test_what_cannot_be_is_one_line(
    finished: Path, photos: Path, words: list[str], message: str
) -> None:
    found = typed(finished, photos, *words)
    assert isinstance(found.exception, UserError)
    assert not found.stdout
    assert len(str(found.exception).splitlines()) == 1
    with pytest.raises(UserError, match=message):
        raise found.exception


def test_files_that_are_no_images_are_named_and_the_others_are_classified(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    found = typed(finished, tmp_path / "bad.png", photos / "1.png", "--json")
    said = json.loads(found.stdout.splitlines()[-1])
    assert [row["image"] for row in said["images"]] == [str(photos / "1.png")]
    assert list(said["bad"]) == [str(tmp_path / "bad.png")]
    assert isinstance(found.exception, UserError)
    assert "1 of 2 files cannot be used" in str(found.exception)
    assert str(tmp_path / "bad.png") in str(found.exception)


def test_without_one_image_that_can_be_used_there_is_no_answer(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    found = typed(finished, tmp_path / "bad.png", "--json")
    assert json.loads(found.stdout.splitlines()[-1])["images"] == []
    assert "1 of 1 files cannot be used" in str(found.exception)


def test_quiet_prints_the_json_alone(finished: Path, photos: Path) -> None:
    logger = logging.getLogger("fl2ora")
    level = logger.level
    try:
        found = typed(finished, photos, "--quiet", "--json")
        assert len(found.output.splitlines()) == 1
        assert len(json.loads(found.stdout)["images"]) == 5
        assert typed(finished, photos, "--quiet").output == ""
    finally:
        logger.setLevel(level)


def test_an_adapter_alone_has_no_images_to_choose_by(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(finished / "adapter", tmp_path / "alone")
    assert outcome(alone, photos / "0.png")["calibrator"] is None
    found = typed(alone, photos / "0.png", "--accuracy", "0.5")
    assert "expected the folder of a run" in str(found.exception)


def test_no_run_is_one_line(tmp_path: Path, photos: Path) -> None:
    for path in (tmp_path, tmp_path / "none", photos / "0.png"):
        found = typed(path, photos)
        assert isinstance(found.exception, UserError)
        assert "expected the folder of a run, with run.json, or of an" in str(found.exception)

"""A finished run as an object, and damaged folders of runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.special import softmax

import fl2ora
from fl2ora.commands.calibrate import calibrate
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import LabelledImages
from fl2ora.results.loading import source_at


def test_the_classifier_scores_images_as_the_run_did(
    finished: Path, held_out: LabelledImages
) -> None:
    run = fl2ora.load_run(finished)
    classifier = run.classifier()
    part = run.logits.central["server-test"]
    assert torch.equal(classifier.logits(held_out.images), part.logits)
    found = classifier.predict(held_out.images, batch_size=13)
    fitted = json.loads((finished / "calibrators/temperature/calibrator.json").read_text())
    assert fitted["spec"] == "temperature"
    assert run.calibrator is not None
    inverse = float(run.calibrator.parameters["inverse_temperature"])
    assert inverse != 1
    expected = softmax(part.logits.double().numpy() * inverse, axis=1)
    assert found.probabilities.numpy() == pytest.approx(expected, abs=1e-6)
    assert found.predicted.tolist() == expected.argmax(axis=1).tolist()
    assert found.confidence.numpy() == pytest.approx(expected.max(axis=1), abs=1e-6)


def test_metrics_and_clients_are_tables(finished: Path) -> None:
    run = fl2ora.load_run(finished)
    last = run.metrics.query("round == 2").set_index("source")
    part = run.logits.central["server-test"]
    right = (part.logits.argmax(dim=1) == part.labels).double().mean()
    assert last.loc["server-test", "accuracy"] == pytest.approx(float(right))
    clients = run.clients.set_index("client")
    assert list(clients.index) == ["0", "1"]
    for client, part in run.logits.test.items():
        hits = (part.logits.argmax(dim=1) == part.labels).double()
        assert clients.loc[client, "test"] == len(part.labels)
        assert clients.loc[client, "accuracy"] == pytest.approx(float(hits.mean()))
        assert clients.loc[client, "nll"] != clients.loc[client, "nll_calibrated"]
    assert last.loc["clients-test-mean", "nll"] == pytest.approx(clients["nll"].mean())
    after = last.loc["clients-test-mean-calibrated", "nll"]
    assert after == pytest.approx(clients["nll_calibrated"].mean())


def test_clients_whose_images_lie_on_their_nodes_are_known_without_metrics(run: Path) -> None:
    record = fl2ora.load_run(run)
    without = type(record.logits)(
        record.logits.central, {}, {}, record.logits.text_features,
        record.logits.zero_shot_text_features,
    )  # fmt: skip
    without.save(run)
    clients = fl2ora.load_run(run).clients
    assert {"client", "train", "test"} <= set(clients.columns)
    assert "accuracy" not in clients.columns
    assert len(clients) == 2


def test_plots_are_figures(finished: Path, tmp_path: Path) -> None:
    run = fl2ora.load_run(finished)
    for number, figure in enumerate((run.reliability(), run.curves())):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000
    titles = {text.get_text() for text in run.reliability().findobj(Text)}
    assert {"zero-shot", "after training", "calibrated"} <= titles
    with pytest.raises(UserError, match="source: expected one of server-test, found 'tests'"):
        run.reliability("tests")


def test_the_calibrator_is_the_runs_own_or_the_one_asked_for(run: Path) -> None:
    calibrate(run, "vector")
    source = source_at(run)
    for wanted, expected in ((None, "temperature"), ("vector", "vector"), ("none", None)):
        fitted = source.calibrator(wanted)
        assert (None if fitted is None else fitted.spec) == expected
    with pytest.raises(UserError, match=r"'platt', found temperature, vector; 'fl2ora calibrate"):
        source.calibrator("platt")


def test_of_a_run_without_one_it_is_the_only_one_fitted_since(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    content["config"]["calibrator"] = "none"
    (run / "run.json").write_text(json.dumps(content))
    fitted = source_at(run).calibrator()
    assert fitted is not None
    assert fitted.spec == "temperature"
    calibrate(run, "vector")
    with pytest.raises(UserError, match=r"several .* one of temperature, vector, or none"):
        source_at(run).calibrator()
    shutil.rmtree(run / "calibrators")
    assert source_at(run).calibrator() is None


def test_the_adapter_of_a_run_is_the_run_and_elsewhere_it_stands_alone(
    run: Path, tmp_path: Path, held_out: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source_at(run / "adapter").run == run
    monkeypatch.chdir(run / "adapter")
    inside = source_at(Path())
    assert inside.run is not None
    assert inside.run.samefile(run)
    alone = source_at(Path(shutil.copytree(run / "adapter", tmp_path / "adapter")))
    assert alone.run is None
    expected = fl2ora.load_run(run).logits.central["server-test"].logits
    assert torch.equal(alone.predictor().logits(held_out.images), expected)
    assert alone.calibrator() is None
    with pytest.raises(UserError, match="expected the fitted calibrator 'temperature', found none"):
        alone.calibrator("temperature")


def test_an_adapter_alone_runs_no_method_of_anybody_elses(run: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(run / "adapter", tmp_path / "adapter"))
    path = alone / "classifier.json"
    path.write_text(path.read_text().replace('"lora"', '"evil:Method"'))
    with pytest.raises(UserError, match=r"method: expected one of fl2ora's own .* 'evil:Method'"):
        source_at(alone)


def test_a_run_that_has_not_ended_has_no_classifier_but_can_be_looked_at(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    assert len(fl2ora.load_run(run).metrics) > 5
    with pytest.raises(UserError, match=r"expected a run that has ended, with adapter/"):
        fl2ora.load_run(run).classifier()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no run.json": lambda run: (run / "run.json").unlink(),
    "run.json of something else": lambda run: (run / "run.json").write_text("[3]"),
    "metrics that are texts": lambda run: (run / "metrics.jsonl").write_text(
        '{"round": "one", "source": "server-test"}\n'
    ),
    "metrics without sources": lambda run: (run / "metrics.jsonl").write_text('{"round": 1}\n'),
    "no logits": lambda run: (run / "logits.safetensors").unlink(),
    "no classifier.json": lambda run: (run / "adapter" / "classifier.json").unlink(),
    "no adapter": lambda run: (run / "adapter" / "adapter_model.safetensors").unlink(),
    "an adapter that is cut": lambda run: (run / "adapter/adapter_model.safetensors").write_bytes(
        (run / "adapter/adapter_model.safetensors").read_bytes()[:-9]
    ),
    "no calibrator": lambda run: shutil.rmtree(run / "calibrators"),
    "a calibrator that is cut": lambda run: (
        run / "calibrators/temperature/calibrator.safetensors"
    ).write_bytes(b"x"),
    "a calibrator of other classes": lambda run: (
        run / "calibrators/temperature/calibrator.json"
    ).write_text(
        json.dumps({"format": "fl2ora calibrator", "version": 1, "spec": "temperature",
                    "num_classes": 3})
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_one_message(run: Path, damage: Callable[[Path], object]) -> None:
    damage(run)
    with pytest.raises(UserError) as caught:
        _look_at_all(run)
    assert len(str(caught.value).splitlines()) == 1
    assert str(run) in str(caught.value) or "fitted to 3" in str(caught.value)


def _look_at_all(run: Path) -> None:
    found = fl2ora.load_run(run)
    assert len(found.metrics.query("source == 'server-test'"))
    assert len(found.clients)
    found.classifier()


def test_the_predicted_class_stays_first_whatever_the_others_have() -> None:
    from fl2ora.results.predictor import Predictions

    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64)
    found = Predictions(probabilities, torch.tensor([0, 0]), torch.tensor([0.25, 0.6]).double())
    classes, values = found.top(2)
    assert classes.tolist() == [[0, 1], [0, 1]]
    assert np.allclose(values, [[0.25, 0.5], [0.6, 0.3]])
    assert found.top(9)[0].tolist() == [[0, 1, 2], [0, 1, 2]]

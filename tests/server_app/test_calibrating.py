"""A calibrator fitted in the federation, and afterwards from saved logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message

from fl2ora.calibration.calibrators.base import Calibrator, FitState, Sums
from fl2ora.calibration.calibrators.files import load_calibrator
from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.messages.calibrate import CalibrateTask
from fl2ora.reporting.events import JsonLines, read_lines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.server_app.calibrating import fit_in_federation, fit_saved
from misbehaving import Wrapped
from runs import events, run_small

SETTINGS = {"num_rounds": 1, "calibration_fraction": 0.4, "partition": "dirichlet(beta=0.3)"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("run"), calibrator="temperature", **SETTINGS)


def test_the_federated_fit_is_the_fit_on_the_pooled_data(folder: Path) -> None:
    saved = SavedLogits.load(folder)
    fitted = load_calibrator(folder / "calibrators" / "temperature")
    again = fit_saved(fitted.calibrator, saved).parameters
    for name, value in again.items():
        torch.testing.assert_close(fitted.parameters[name], value, rtol=1e-6, atol=0)
    # An independent minimum of the pooled NLL over a fine grid of inverse temperatures.
    logits = torch.cat([part.logits for part in saved.calibration.values()]).double()
    labels = torch.cat([part.labels for part in saved.calibration.values()])
    grid = torch.linspace(0.05, 3, 20_000, dtype=torch.float64)
    losses = torch.stack(
        [torch.nn.functional.cross_entropy(beta * logits, labels) for beta in grid]
    )
    expected = torch.nn.functional.log_softmax(grid[losses.argmin()] * logits[:3], dim=1)
    torch.testing.assert_close(fitted(logits[:3]), expected, rtol=0, atol=2e-3)


def test_figures_before_and_after_stand_side_by_side(folder: Path) -> None:
    rows = {r["source"]: r for r in read_lines(folder / "metrics.jsonl") if r["round"] == 1}
    for source in ("server-test", "clients-test", "clients-test-mean", "clients-test-worst"):
        assert source in rows
        assert source + "-calibrated" in rows
    before, after = rows["server-test"], rows["server-test-calibrated"]
    assert after["accuracy"] == before["accuracy"]
    assert after["num_examples"] == before["num_examples"]
    assert after["nll"] != before["nll"]


def test_calibration_images_are_neither_trained_on_nor_measured_on(tmp_path: Path) -> None:
    plain = run_small(tmp_path / "plain", **SETTINGS)
    nodes = events(plain, "nodes")[0]["nodes"]
    saved = SavedLogits.load(plain)
    for node in nodes:
        kept = len(saved.calibration[node["client"]].labels)
        assert kept == round(0.4 * (node["train"] + node["test"] + kept))
    total = sum(n["train"] + n["test"] for n in nodes)
    assert total + sum(len(p.labels) for p in saved.calibration.values()) == 96


def test_a_calibrator_changes_nothing_of_the_training(tmp_path: Path, folder: Path) -> None:
    plain = run_small(tmp_path, **SETTINGS)
    assert (plain / "global.safetensors").read_bytes() == (
        folder / "global.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", [n for n in available(Calibrator) if n != "dac"])  # refused
def test_every_calibrator_fits_in_the_federation_as_from_saved_logits(
    tmp_path: Path, name: str
) -> None:
    short = {
        "parametrised_temperature": "parametrised_temperature(steps=2)",
        "order_preserving": "order_preserving(steps=2)",
        "matrix": "matrix(max_steps=3)",
        "dirichlet": "dirichlet(max_steps=3)",
        "vector": "vector(max_steps=3)",
        "ensemble": "ensemble(objective='mse')",
    }
    spec = short.get(name, name)
    folder = run_small(tmp_path, clients=2, calibrator=spec, **SETTINGS)
    (kept,) = (folder / "calibrators").iterdir()
    fitted = load_calibrator(kept)
    again = fit_saved(load(spec, Calibrator), SavedLogits.load(folder)).parameters
    assert fitted.parameters.keys() == again.keys()
    for key, value in again.items():
        torch.testing.assert_close(fitted.parameters[key], value, rtol=1e-4, atol=1e-5)
    rows = {r["source"]: r for r in read_lines(folder / "metrics.jsonl")}
    assert rows["server-test-calibrated"]["nll"] is not None


def test_a_client_that_fails_to_calibrate_is_left_out_and_recorded(tmp_path: Path) -> None:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train.calibrate" and context.node_id == 1:
            raise RuntimeError("no memory")
        return reply

    folder = run_small(
        tmp_path, client_app=Wrapped(alter), calibrator="histogram_binning", **SETTINGS
    )
    assert [d["reason"] for d in events(folder, "drop")] == ["calibration: RuntimeError: no memory"]
    assert [e["clients"] for e in events(folder, "calibrate")] == [["1", "2"]]


class Late:
    """Clients ``sure`` and ``unsure``; the second does not answer in the first step."""

    def __init__(self) -> None:
        self.data = {}
        for key, sharpness in (("sure", 0.5), ("unsure", 3.0)):
            rng = torch.Generator().manual_seed(len(key))
            logits = torch.randn(60, 4, generator=rng, dtype=torch.float64) * 3
            chances = (logits / sharpness).softmax(dim=1)
            self.data[key] = logits, torch.multinomial(chances, 1, generator=rng)[:, 0]
        self.steps = 0

    def calibration_sums(self, task: CalibrateTask, *_: object) -> dict[str, Sums]:
        self.steps += 1
        state = FitState(dict(task.parameters), {}, False)
        keys = ("sure",) if self.steps == 1 else ("sure", "unsure")
        return {key: Temperature().statistics(*self.data[key], state) for key in keys}


def test_a_client_that_comes_later_does_not_hold_the_fit_up(tmp_path: Path) -> None:
    """Its images raise the loss, which is no reason to go back: they were not counted before."""
    clients, tracker = Late(), JsonLines(tmp_path)
    found = fit_in_federation(
        Temperature(),
        "temperature",
        clients,  # type: ignore[arg-type]
        tracker,
        {},
        4,
    )
    logits, labels = (torch.cat(parts) for parts in zip(*clients.data.values(), strict=True))
    grid = torch.linspace(0.05, 3, 3000, dtype=torch.float64)
    losses = [torch.nn.functional.cross_entropy(beta * logits, labels) for beta in grid]
    best = float(grid[torch.stack(losses).argmin()])
    assert float(found["inverse_temperature"]) == pytest.approx(best, abs=2e-3)
    assert read_lines(tmp_path / "events.jsonl")[-1]["converged"] is True


def test_sums_that_no_images_have_are_dropped_with_the_reason(tmp_path: Path) -> None:
    """The slope alone, a thousand times what it was, of the very number of images it has."""

    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train.calibrate" and context.node_id == 1:
            sums = reply.content.array_records["sums"].to_torch_state_dict()
            reply.content["sums"] = ArrayRecord({**sums, "slope": sums["slope"] * 1e3 - 1e3})
        return reply

    folder = run_small(tmp_path, client_app=Wrapped(alter), calibrator="temperature", **SETTINGS)
    drops = events(folder, "drop")
    assert {d["client"] for d in drops} == {"0"}
    assert drops[0]["reason"].startswith("calibration: sums: loss less slope, an entropy: expected")
    assert {tuple(e["clients"]) for e in events(folder, "calibrate")} == {("1", "2")}


@pytest.mark.parametrize(("steps", "converged"), [(1, False), (200, True)])
def test_the_record_says_whether_the_fit_met_its_tolerance(
    tmp_path: Path, steps: int, converged: bool
) -> None:
    spec = f"vector(max_steps={steps})"
    folder = run_small(tmp_path, clients=1, calibrator=spec, **SETTINGS)
    (event,) = events(folder, "calibrated")
    assert (event["calibrator"], event["converged"]) == (spec, converged)


def test_no_calibration_images_at_all_is_said(tmp_path: Path) -> None:
    """Before anything is trained where the configuration says so, after it is saved elsewhere."""
    with pytest.raises(UserError, match="calibrator: 'temperature' is fitted to the images"):
        run_small(tmp_path, calibrator="temperature", num_rounds=0, calibration_fraction=0.0)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="calibrator 'temperature'"):
        run_small(tmp_path, calibrator="temperature", num_rounds=1, calibration_fraction=0.001)
    folder = tmp_path / "runs" / "run"
    for name in ("global.safetensors", "logits.safetensors", "metrics.csv", "summary.md"):
        assert (folder / name).exists(), name


@pytest.mark.parametrize("spec", ["temperature", "sals", "histogram_binning"])
def test_nodes_measure_calibrated_figures_where_their_images_lie(tmp_path: Path, spec: str) -> None:
    here, there = (
        run_small(tmp_path / place, calibrator=spec, evaluate_on=place, **SETTINGS)
        for place in ("server", "nodes")
    )
    rows = [
        {r["source"]: r for r in read_lines(f / "metrics.jsonl") if r["round"] == 1}
        for f in (here, there)
    ]
    for source in ("server-test-calibrated", "clients-test-calibrated"):
        for name in ("accuracy", "ece", "nll", "num_examples"):
            assert rows[0][source][name] == pytest.approx(rows[1][source][name], abs=1e-6)


def test_penalties_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'dca' holds penalties alone"):
        run_small(tmp_path, loss="dca")

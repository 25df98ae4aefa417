"""LoRA strategies in whole runs: the real ServerApp and ClientApps in this process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from peft import PeftModel

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.factors import factors_of, norm, pair_names, residual_of, scalings
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.strategies.lora.lora_one_factor import one_factor
from misbehaving import Wrapped
from runs import events, final_adapter, run_small

SMALLER = {"dataset": "shapes(styles='held-back', train=32, validation=8, test=16)"}


def figures(folder: Path, name: str) -> list[float]:
    rows = [row for row in events(folder, "metrics") if row["source"] == "training"]
    return [row[name] for row in sorted(rows, key=lambda row: row["round"])]


@pytest.mark.parametrize("spec", ["rolora", "fedsvd"])
def test_alternating_strategy_trains_one_factor_a_round(tmp_path: Path, spec: str) -> None:
    app = Wrapped()
    folder = run_small(tmp_path, clients=2, client_app=app, strategy=spec, **SMALLER)
    assert not events(folder, "drop")
    adapter = final_adapter(folder)
    assert all(norm(factors_of(adapter, module)) > 0 for module in pair_names(adapter))
    sent, back = app.started(), arrays_of(app.replies_to("train"))
    moved = [
        {name for name, tensor in end.items() if not torch.equal(start[name], tensor)}
        for start, end in zip(sent, back, strict=True)
    ]
    a, b = one_factor(adapter, "A"), one_factor(adapter, "B")
    assert moved == [set(end) for end in back]  # what did not move does not travel
    assert moved == [b, b, a, a] if spec == "rolora" else [b, b, b, b]
    assert max(figures(folder, "lora_aggregation_error")) < 1e-12
    assert max(figures(folder, "lora_server_error")) < 1e-5
    assert min(figures(folder, "lora_update_norm")) > 0


def arrays_of(messages: list[tuple[int, Message]]) -> list[Adapter]:
    return [
        dict(message.content.array_records["arrays"].to_torch_state_dict())
        for _, message in messages
    ]


def test_clients_of_different_ranks(tmp_path: Path) -> None:
    app = Wrapped()
    spec = "flexlora(ranks='4,1')"
    run_small(tmp_path, clients=3, client_app=app, strategy=spec, method="lora(rank=4)", **SMALLER)
    ranks: dict[int, list[int]] = {}
    nodes = [node for node, _ in app.replies_to("train")]
    for node, adapter in zip(nodes, arrays_of(app.replies_to("train")), strict=True):
        rows = {int(adapter[name].any(dim=1).sum()) for name in one_factor(adapter, "A")}
        columns = {int(adapter[name].any(dim=0).sum()) for name in one_factor(adapter, "B")}
        assert rows == columns
        ranks.setdefault(node, []).append(rows.pop())
    assert sorted(ranks.values()) == [[1, 1], [4, 4], [4, 4]]


@pytest.mark.parametrize(("spec", "fits"), [("fedex_lora", True), ("flora", False)])
def test_a_residual_travels_is_evaluated_and_exported(
    tmp_path: Path, spec: str, fits: bool
) -> None:
    app = Wrapped()
    method = f"lora_residual(residual_rank={8 if fits else 3})"
    folder = run_small(tmp_path, clients=2, client_app=app, strategy=spec, method=method, **SMALLER)
    assert not events(folder, "drop")
    for name in ("lora_residual_truncation", "lora_server_error"):
        lost = figures(folder, name)
        assert len(lost) == 2
        assert (max(lost) < 1e-4) == fits
    apart = figures(folder, "lora_aggregation_error")
    # FLoRA starts from B = 0 every round, and a single step then moves B alone.
    assert max(apart) < 1e-12 if spec == "flora" else apart[1] > 1e-3
    adapter = final_adapter(folder)
    residuals = [residual_of(adapter, module) for module in pair_names(adapter)]
    assert all(residual is not None and norm(residual) > 0 for residual in residuals)

    # What peft reads from the run's folder is what the run measured.
    world = Shapes(styles="held-back", train=32, validation=8, test=16)
    names = (world.class_names, world.templates, 3)
    ours = build_classifier("embedded", method, *names)
    ours.restore(adapter)
    theirs = build_classifier("embedded", "zero_shot", *names)
    theirs.clip = PeftModel.from_pretrained(theirs.clip, str(folder / "adapter")).eval()
    pixels = ours.preprocessing.evaluation(world.split("test").images[:8])
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels), ours(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "method", "message"),
    [
        ("flexlora", "coop", "'flexlora' combines LoRA factors only"),
        ("fedit", "zero_shot", "'fedit' combines LoRA factors only.*found nothing"),
        ("flora", "lora", "'flora' moves the frozen weights"),
        ("flexlora(ranks='9')", "lora", "expected 1 to 2, the rank of the method, found 9"),
    ],
)
def test_unsuitable_method_stops_the_run_before_training(
    tmp_path: Path, spec: str, method: str, message: str
) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match=message):
        run_small(tmp_path, clients=2, client_app=app, strategy=spec, method=method, **SMALLER)
    assert not app.of("train")


def test_the_scale_does_not_depend_on_the_number_of_clients() -> None:
    """Stacking m adapters of rank r must not turn alpha / sqrt(r) into alpha / sqrt(m r)."""
    names = (("a",), ("{}",))
    for method in ("lora(rank=2)", "lora_residual(rank=2, residual_rank=8)"):
        classifier = build_classifier("embedded", method, *names, 0)
        assert set(scalings(classifier.clip).values()) == {1 / math.sqrt(2)}

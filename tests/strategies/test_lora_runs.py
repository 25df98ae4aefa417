"""LoRA strategies in whole runs: the real ServerApp and ClientApps in this process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from clip_tuning.build import build_classifier
from clip_tuning.clip import load_clip
from clip_tuning.factors import factors_of, merged_of, norm, pair_names, residual_of, scalings
from experiment.errors import UserError
from federated_data.datasets.shapes import Shapes
from misbehaving import Wrapped
from runs import events, final_adapter, run_small
from strategies.lora_one_factor import one_factor


@pytest.mark.parametrize("spec", ["ffa_lora", "rolora", "fedsvd", "fedsa_lora", "lora_fair"])
def test_a_run_ends_with_a_trained_adapter(tmp_path: Path, spec: str) -> None:
    app = Wrapped()
    folder = run_small(tmp_path, clients=2, client_app=app, strategy=spec)
    assert not events(folder, "drop")
    adapter = final_adapter(folder)
    assert all(norm(factors_of(adapter, module)) > 0 for module in pair_names(adapter))
    sent = [m.content.array_records["arrays"].to_torch_state_dict() for _, m in app.of("train")]
    back = [
        m.content.array_records["arrays"].to_torch_state_dict() for _, m in app.replies_to("train")
    ]
    moved = [
        {name for name in start if not torch.equal(start[name], end[name])}
        for start, end in zip(sent, back, strict=True)
    ]
    a, b = one_factor(adapter, "A"), one_factor(adapter, "B")
    expected = {
        "ffa_lora": [b, b],
        "rolora": [b, a],
        "fedsvd": [b, b],
        "fedsa_lora": [a | b, a | b],
        "lora_fair": [a | b, a | b],
    }[spec]
    assert moved == [expected[0], expected[0], expected[1], expected[1]]


def test_clients_of_different_ranks(tmp_path: Path) -> None:
    app = Wrapped()
    run_small(
        tmp_path, clients=3, client_app=app, strategy="flexlora(ranks='4,1')",
        method="lora(rank=4)",
    )  # fmt: skip
    ranks = {}
    for node, reply in app.replies_to("train"):
        adapter = dict(reply.content.array_records["arrays"].to_torch_state_dict())
        rows = {int(adapter[name].any(dim=1).sum()) for name in one_factor(adapter, "A")}
        columns = {int(adapter[name].any(dim=0).sum()) for name in one_factor(adapter, "B")}
        assert rows == columns
        ranks.setdefault(node, []).append(rows.pop())
    assert sorted(ranks.values()) == [[1, 1], [4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("spec", "fits"), [("fedex_lora", True), ("flora(seed=1)", True), ("flora", False)]
)
def test_a_residual_travels_is_evaluated_and_exported(
    tmp_path: Path, spec: str, fits: bool
) -> None:
    method = f"lora_residual(residual_rank={16 if fits else 3})"
    folder = run_small(tmp_path, clients=2, strategy=spec, method=method)
    assert not events(folder, "drop")
    lost = [event["lora_residual_truncation"] for event in events(folder, "round-end")]
    assert len(lost) == 2
    assert (max(lost) < 1e-6) == fits
    adapter = final_adapter(folder)
    carried = [residual_of(adapter, module) for module in pair_names(adapter)]
    assert all(residual is not None and norm(residual) > 0 for residual in carried)

    # What peft reads from the run's folder is what the run measured.
    world = Shapes(styles="held-back", train=96, validation=16, test=64)
    build = ("embedded", method, world.class_names, world.templates, 3)
    ours = build_classifier(*build)
    ours.restore(adapter)
    base = load_clip("embedded")
    theirs = build_classifier("embedded", "zero_shot", world.class_names, world.templates, 3)
    theirs.clip = PeftModel.from_pretrained(base.model, str(folder / "adapter")).eval()
    pixels = ours.preprocessing.evaluation(world.split("test").images[:8])
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels), ours(pixels), rtol=1e-4, atol=1e-4)
    assert set(map(str, scalings(theirs.clip))) == set(pair_names(adapter))


def test_fedex_ends_the_first_round_at_the_mean_of_the_products(tmp_path: Path) -> None:
    app = Wrapped()
    folder = run_small(
        tmp_path, clients=2, client_app=app, strategy="fedex_lora(weighting='uniform')",
        method="lora_residual(residual_rank=2)", num_rounds=1,
    )  # fmt: skip
    adapter = final_adapter(folder)
    replies = [
        dict(m.content.array_records["arrays"].to_torch_state_dict())
        for _, m in app.replies_to("train")
    ]
    for module in pair_names(adapter):
        products = [factors_of(reply, module) for reply in replies]
        exact = sum(product.b @ product.a for product in products) / 2
        found = merged_of(adapter, module)
        torch.testing.assert_close(found.b @ found.a, exact, rtol=0, atol=1e-6)
        assert float(exact.norm()) > 1e-3


@pytest.mark.parametrize(
    ("spec", "method", "message"),
    [
        ("flexlora", "prompt", "'flexlora' combines LoRA factors only"),
        ("fedit", "zero_shot", "'fedit' combines LoRA factors only.*found nothing"),
        ("flora", "lora", "'flora' moves the frozen weights"),
        ("flexlora(ranks='9')", "lora", "expected 1 to 2, the rank of the method, found 9"),
    ],
)
def test_what_does_not_fit_stops_the_run_before_training(
    tmp_path: Path, spec: str, method: str, message: str
) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match=message):
        run_small(tmp_path, clients=2, client_app=app, strategy=spec, method=method)
    assert not app.of("train")


def test_the_scale_does_not_depend_on_the_number_of_clients() -> None:
    """Stacking m adapters of rank r must not turn alpha / sqrt(r) into alpha / sqrt(m r)."""
    names = (("a",), ("{}",))
    for method in ("lora(rank=2)", "lora_residual(rank=2, residual_rank=8)"):
        classifier = build_classifier("embedded", method, *names, 0)
        assert set(scalings(classifier.clip).values()) == {1 / math.sqrt(2)}

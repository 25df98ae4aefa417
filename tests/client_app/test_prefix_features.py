"""Prefix features are computed once, and change no metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.base import Loss
from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.calibration.losses.mixup import Mixup
from fl2ora.client_app.batches import draw_batches
from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.node import Node
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.features import Views, prefix_features
from fl2ora.clip_tuning.prefix.store import shared_store
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.reporting.events import METRICS_FILE, read_lines
from runs import final_adapter, run_small

WORLD = Shapes(styles="held-back", train=32, validation=16, test=32)
DATA = WORLD.split("train")
PLAN = TrainingPlan(CrossEntropy(), batch_size=8, learning_rate=0.01, epochs=2, client="a", seed=1)
FROZEN = [
    "coop(length=2)",
    "kgcoop(length=2)",
    "linear_probe",
    "task_res",
    "prograd(length=2)",
    "clip_adapter",
    "cocoop(length=2)",
    "fedotp(length=2)",
    "fedpgp(length=2)",
    "promptfolio(length=2)",
    "tip_adapter",
    "lora(blocks='up', dropout=0.0)",
    "lora(blocks='3', towers='vision')",
    "lora_residual(blocks='half-up')",
    "logit_scale('lora(blocks=\"up\")')",
    "lora(towers='text')",
]


def classifier(method: str) -> ClipClassifier:
    return build_classifier("embedded", method, WORLD.class_names, WORLD.templates, 0)


def counting(model: ClipClassifier, name: str) -> list[int]:
    calls: list[int] = []
    original: Callable[..., Tensor] = getattr(model, name)

    def wrapper(*args: Tensor) -> Tensor:
        calls.append(len(args[0]) if args else 0)
        return original(*args)

    setattr(model, name, wrapper)
    return calls


def train(
    method: str,
    table: Callable[[ClipClassifier], Tensor] | None = None,
    plan: TrainingPlan | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Return the adapter after two epochs and how many batches of images were encoded."""
    model, frozen = classifier(method), classifier(method)
    make = None if table is None else lambda: table(frozen)
    calls = counting(model, "encode_images")
    with model.as_client({}):
        update, _ = local_train(model, DATA, plan or PLAN, image_table=make)
    return update.adapter, len(calls)


@pytest.mark.parametrize("method", FROZEN)
def test_cached_training_equals_uncached_training(method: str) -> None:
    cached, known = train(method, lambda frozen: prefix_features(frozen, DATA.images, 7))
    plain, encoded = train(method)
    assert (known, encoded) == (0, 12 if method == "tip_adapter" else 8)
    start = classifier(method).export()
    for name, tensor in cached.items():
        torch.testing.assert_close(plain[name], tensor, rtol=0, atol=1e-5)
    assert any(not torch.allclose(tensor, start[name], atol=1e-5) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("method", "loss"),
    [("lora", CrossEntropy()), ("vpt", CrossEntropy()), ("coop(length=2)", Mixup())],
)
def test_training_without_a_prefix_encodes_every_batch(method: str, loss: Loss) -> None:
    def fail(_: ClipClassifier) -> Tensor:
        raise AssertionError("must not be called")

    _, encoded = train(method, fail, replace(PLAN, loss=loss))
    assert encoded == 8


def test_the_prefix_of_lora_on_upper_blocks_is_the_blocks_below() -> None:
    model = classifier("lora(blocks='1,2')")
    prefix = model.image_prefix
    assert prefix is not None
    assert model.first_tuned == {"vision": 1, "text": 1}
    pixels = model.preprocessing.evaluation(DATA.images[:5])
    hidden = prefix.compute(pixels)
    states = model.clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(hidden, states[1])
    model.restore({n: t + 0.3 for n, t in model.export().items()})
    assert torch.equal(prefix.compute(pixels), hidden)
    torch.testing.assert_close(prefix.finish(hidden), model.encode_images(pixels))
    assert classifier("lora").image_prefix is None
    assert classifier("lora(towers='text')").images_frozen
    assert classifier("lora(blocks='3', towers='vision')").first_tuned["text"] is None


@pytest.mark.parametrize("templates", [WORLD.templates, ("a {}", "the {} on paper", "{}")])
def test_text_blocks_below_the_first_tuned_one_run_once(templates: tuple[str, ...]) -> None:
    model, whole = (
        build_classifier("embedded", "lora(blocks='2')", WORLD.class_names, templates, 0)
        for _ in range(2)
    )
    adapter = {name: tensor + 0.2 for name, tensor in model.export().items()}
    whole.first_tuned = {"vision": 0, "text": 0}
    calls: list[Any] = []
    lowest = model.clip.text_model.encoder.layers[0].mlp
    lowest.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        before = model.encode_classes()
        model.restore(adapter)
        whole.restore(adapter)
        found = model.encode_classes()
        torch.testing.assert_close(found, whole.encode_classes(), rtol=0, atol=1e-5)
    assert len(calls) == 1
    assert not torch.allclose(found, before, atol=1e-3)


def test_frozen_classes_are_encoded_once() -> None:
    model = classifier("vpt(length=2)")
    assert model.classes_frozen
    calls = counting(model, "encode_classes")
    for seed in (1, 2):
        local_train(model, DATA, replace(PLAN, epochs=1, seed=seed))
    assert len(calls) == 1


@pytest.mark.parametrize("method", ["coop(length=2)", "clip_adapter", "lora(blocks='up')"])
def test_predictions_from_prefix_features_equal_those_from_images(method: str) -> None:
    model = classifier(method)
    images = WORLD.split("test").images
    features = prefix_features(model, images, 7)
    torch.testing.assert_close(
        predict(model, images, 7, features), predict(model, images, 7), rtol=0, atol=1e-5
    )


def test_features_of_views_are_those_of_the_drawn_views_one_view_after_another() -> None:
    model, rng = classifier("coop(length=2)"), torch.Generator().manual_seed(9)
    pixels = [model.preprocessing.training(DATA.images[:], "flip", rng) for _ in range(3)]
    made = prefix_features(model, DATA.images, 7, Views("flip", 3, seed=9))
    with torch.no_grad():
        drawn = torch.cat([model.encode_images(view) for view in pixels])
    torch.testing.assert_close(made, drawn, rtol=0, atol=1e-5)
    first, second, third = made.split(len(DATA))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(second, third, atol=1e-3)


@pytest.mark.parametrize("fixed", [1, 4])
def test_every_image_comes_once_an_epoch_as_one_of_its_views(fixed: int) -> None:
    plan = replace(PLAN, augmentation="flip", epochs=30)
    model, count = classifier("coop(length=2)"), len(DATA)
    # Row r of the table holds the number r, so that a batch says what it took.
    table = torch.arange(count * fixed).float()[:, None]
    batches = list(draw_batches(model, DATA, plan, table))
    for batch in batches:
        assert batch.prefix is not None
        assert batch.prefix[:, 0].long().tolist() == batch.rows.tolist()
        assert torch.equal(batch.labels, DATA.labels[batch.rows % count])
        assert not batch.changed
    taken = torch.cat([batch.rows for batch in batches]).view(30, count)
    assert all(epoch.tolist() == list(range(count)) for epoch in (taken % count).sort(dim=1).values)
    views = torch.bincount(taken.flatten() // count, minlength=fixed) / (30 * count)
    assert views.tolist() == pytest.approx([1 / fixed] * fixed, abs=0.06)  # 4 sd of 960 draws
    again = torch.cat([batch.rows for batch in draw_batches(model, DATA, plan, table)])
    assert torch.equal(again.view(30, count), taken)


def test_tip_adapter_averages_the_kept_views() -> None:
    plan = replace(PLAN, augmentation="flip", epochs=1)
    kept, encoded = train(
        "tip_adapter", lambda m: prefix_features(m, DATA.images, 32, Views("flip", 3)), plan
    )
    other, _ = train(
        "tip_adapter", lambda m: prefix_features(m, DATA.images, 32, Views("flip", 1)), plan
    )
    assert encoded == 0
    (name,) = kept
    assert kept[name].shape == other[name].shape
    assert not torch.allclose(kept[name], other[name], atol=1e-4)


def rows(folder: Path, source: str) -> dict[int, dict[str, Any]]:
    return {r["round"]: r for r in read_lines(folder / "metrics.jsonl") if r["source"] == source}


def assert_equal_runs(one: Path, two: Path) -> None:
    first, second = final_adapter(one), final_adapter(two)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-5)
    mine, theirs = (
        {(row["round"], row["source"]): row.get("nll") for row in read_lines(run / METRICS_FILE)}
        for run in (one, two)
    )
    assert mine == pytest.approx(theirs, abs=1e-4)


def test_prompt_src_reads_known_zero_shot_features() -> None:
    frozen, model = classifier("zero_shot"), classifier("prompt_src(length=1)")
    calls = counting(frozen, "encode_images")
    kept = ZeroShotReference(frozen, prefix_features(frozen, DATA.images))
    updates = []
    for reference in (lambda: kept, None):
        model.restore(classifier("prompt_src(length=1)").export())
        passes = counting(model, "frozen_features")
        update, _ = local_train(model, DATA, replace(PLAN, epochs=1), reference=reference)
        updates.append(update.adapter)
        assert len(passes) == (4 if reference is None else 0)
    assert len(calls) == 1
    for name, tensor in updates[0].items():
        torch.testing.assert_close(updates[1][name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["kgcoop(length=2)", "lora(blocks='up')", "clip_adapter"])
@pytest.mark.parametrize("where", ["server", "nodes"])
def test_a_run_is_equal_with_and_without_cached_features(
    tmp_path: Path, method: str, where: str
) -> None:
    settings = {"method": method, "evaluate_on": where, "calibrator": "temperature"}
    one, two = (
        run_small(tmp_path / str(flag), cache_features=flag, **settings) for flag in (True, False)
    )
    assert_equal_runs(one, two)


def test_features_of_parts_of_one_size_are_told_apart(tmp_path: Path) -> None:
    settings = {"method": "kgcoop(length=2)", "protocol": "base_to_new", "num_rounds": 1}
    settings["local_test_fraction"] = 0.0
    one, two = (
        run_small(tmp_path / str(flag), cache_features=flag, **settings) for flag in (True, False)
    )
    base, new = (rows(one, f"server-test/{half}")[0] for half in ("base", "new"))
    assert base["num_examples"] == new["num_examples"]
    assert_equal_runs(one, two)


def test_a_second_run_reads_the_feature_files_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "features"
    settings = {"method": "coop(length=2)", "cache_dir": str(files), "evaluate_on": "nodes"}
    one = run_small(tmp_path / "one", **settings)
    found = sorted(files.iterdir())
    # Three clients' training and test images, and the server's.
    assert len(found) == 7
    assert {path.suffix for path in found} == {".safetensors"}
    times = {path: path.stat().st_mtime_ns for path in found}
    shared_store.cache_clear()
    two = run_small(tmp_path / "two", learning_rate=0.1, **settings)
    assert {path: path.stat().st_mtime_ns for path in sorted(files.iterdir())} == times
    shared_store.cache_clear()
    monkeypatch.setattr("fl2ora.clip_tuning.prefix.store.prefix_features", None)
    three = run_small(
        tmp_path / "three", learning_rate=0.1, method="coop(length=2)", cache_features=False
    )
    for name, tensor in final_adapter(two).items():
        torch.testing.assert_close(final_adapter(three)[name], tensor, rtol=0, atol=1e-5)
    assert rows(one, "server-test")[0]["nll"] == rows(two, "server-test")[0]["nll"]


def test_without_memory_nothing_is_kept_and_results_are_equal(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "coop(length=2)", "cache_gib": 0.0}
    assert_equal_runs(
        run_small(tmp_path / "none", **settings),
        run_small(tmp_path / "some", method="coop(length=2)"),
    )


def test_fixed_views_are_drawn_once_for_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    original = Preprocessing.training

    def counting(self: Preprocessing, raw: Tensor, *rest: Any) -> Tensor:
        drawn.append(len(raw))
        return original(self, raw, *rest)

    monkeypatch.setattr(Preprocessing, "training", counting)
    settings = {"method": "coop(length=2)", "augmentation": "flip", "num_rounds": 3}
    ends, counts = [], []
    for name, views in (("none", 0), ("two", 2), ("again", 2), ("three", 3)):
        shared_store.cache_clear()
        drawn.clear()
        run = run_small(tmp_path / name, fixed_views=views, **settings)
        ends.append(final_adapter(run)["context"])
        counts.append(sum(drawn))
    training = counts[0] // 3
    assert counts == [3 * training, 2 * training, 2 * training, 3 * training]
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[3])


def test_a_loss_that_holds_to_zero_shot_reads_it_of_the_same_views(tmp_path: Path) -> None:
    config = RunConfig.from_flat(
        {"method": "lora(blocks='up')", "augmentation": "flip", "fixed-views": 3}
    )
    node = Node.from_configs(config.flat(), {"partition-id": 0, "num-partitions": 20}, 1)
    own, frozen = node.prefix_features("train"), node.prefix_features("train", zero_shot=True)
    assert own is not None
    assert frozen is not None
    assert len(own) == len(frozen) == 3 * len(node.data.train)
    # LoRA starts at zero-shot, so the features of both are equal if the views are.
    finished = node.classifier().finish_images(own)
    torch.testing.assert_close(finished, frozen, rtol=0, atol=1e-5)
    test = node.prefix_features("test")
    assert test is not None
    assert len(test) == len(node.data.test)
    other = Node.from_configs(config.flat(), {"partition-id": 1, "num-partitions": 20}, 2)
    assert node.views("train") != other.views("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lora"}, r"expected 0 with method = 'lora', .* found 2$"),
        ({"method": "coop", "loss": "mixup"}, "expected 0 with loss = 'mixup'"),
        ({"method": "coop", "cache_gib": 0.0}, r"2 views of .* images need .* found cache-gib=0"),
        ({"method": "coop", "cache_gib": 1e-5}, r"2 views of .* found cache-gib=1e-05"),
        ({"method": "coop", "cache_features": False}, "expected 0 without augmentation or without"),
        ({"method": "coop", "augmentation": "none"}, "expected 0 without augmentation or without"),
    ],
)
def test_fixed_views_that_cannot_be_kept_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"fixed-views: {message}"):
        run_small(tmp_path, **{"augmentation": "flip", "fixed_views": 2, **settings})


def test_cache_dir_of_a_node_with_its_own_data_comes_from_its_node_config(tmp_path: Path) -> None:
    run = RunConfig.from_flat({"cache-dir": "/from/the/server"}).flat()
    mine = {"dataset": "shapes(styles='held-back')", "cache-dir": "/mine"}
    share = {"partition-id": 0, "num-partitions": 2}
    found = [
        Node.from_configs(run, node, 1).config.cache_dir
        for node in (share, {"dataset": mine["dataset"]}, mine, {**share, "cache-dir": "/mine"})
    ]
    assert found == ["/from/the/server", "", "/mine", "/mine"]

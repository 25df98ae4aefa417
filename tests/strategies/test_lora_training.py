"""The client halves in real local training on the tiny CLIP."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import Adapter, AdapterError
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.factors import factors_of, pair_names
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.federated_data.images import LabelledImages
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.lora._ranks import cut_to_rank
from fl2ora.strategies.lora.fedsa_lora import FedSALoRARule
from fl2ora.strategies.lora.lora_one_factor import TrainOneFactor, one_factor

Maker = Callable[..., LabelledImages]
PLAN = TrainingPlan(
    CrossEntropy(),
    epochs=2,
    batch_size=4,
    learning_rate=0.1,
    optimiser="sgd(momentum=0.9, weight_decay=0.1)",
    client="c",
    seed=1,
)


def attached(
    clip: Clip, rank: int = 2, alpha: float = 1.0, dropout: float = 0.25
) -> ClipClassifier:
    torch.manual_seed(0)
    lora = LoRA(rank=rank, alpha=alpha, dropout=dropout, targets="q,v")
    return lora.attach(clip, ["cat", "boot", "dog"], ["a photo of a {}."]).eval()


def filled(classifier: ClipClassifier) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    return {
        name: 0.3 * torch.randn(t.shape, generator=generator)
        for name, t in classifier.export().items()
    }


def train(
    classifier: ClipClassifier,
    start: Adapter,
    data: LabelledImages,
    rule: ClientRule | None = None,
    state: Adapter | None = None,
) -> tuple[Adapter, Adapter]:
    classifier.restore(start)
    plan = replace(PLAN, rule=rule or ClientRule(), state=state or {})
    update, kept = local_train(classifier, data, plan)
    return update.adapter, kept


def moved(before: Adapter, after: Adapter) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("factor", ["A", "B"])
def test_one_factor_stays_bit_for_bit_and_the_other_moves(
    tiny_clip: Clip, random_images: Maker, factor: str
) -> None:
    """Two epochs of momentum and a weight decay that plain training shows on every tensor."""
    classifier, data = attached(tiny_clip), random_images(6)
    start = filled(classifier)
    after, _ = train(classifier, start, data, TrainOneFactor(factor))
    assert moved(start, after) == one_factor(start, factor)
    plain, _ = train(classifier, start, data)
    assert moved(start, plain) == set(start)


def test_freezing_leaves_nothing_behind_after_a_failure(
    tiny_clip: Clip, random_images: Maker
) -> None:
    classifier, data = attached(tiny_clip), random_images(6)
    start = filled(classifier)

    class Failing(TrainOneFactor):
        def finish(self, steps: int) -> tuple[Adapter, Adapter]:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        train(classifier, start, data, Failing("B"))
    plain, _ = train(classifier, start, data)
    assert moved(start, plain) == set(start)


def test_b_trained_alone_moves_as_the_gradient_says(tiny_clip: Clip, random_images: Maker) -> None:
    classifier, data = attached(tiny_clip, dropout=0.0), random_images(4)
    start = filled(classifier)
    classifier.restore(start)
    pixels = classifier.preprocessing.evaluation(data.images[:])
    torch.nn.functional.cross_entropy(classifier(pixels), data.labels).backward()
    name = sorted(one_factor(start, "B"))[0]
    gradient = classifier.tuned[name].grad
    assert gradient is not None
    expected = start[name] - 0.1 * (gradient + 0.1 * start[name])
    classifier.restore(start)
    plan = replace(PLAN, rule=TrainOneFactor("B"), epochs=1)
    after = local_train(classifier, data, plan)[0].adapter
    torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)


def test_zeros_beyond_a_client_s_rank_stay_zero(tiny_clip: Clip, random_images: Maker) -> None:
    """Dropout, momentum, weight decay and several steps wake no pair of zero vectors."""
    classifier = attached(tiny_clip, rank=3)
    start = cut_to_rank(filled(classifier), 1)
    after, _ = train(classifier, start, random_images(8))
    for module in pair_names(after):
        factors = factors_of(after, module)
        assert not factors.a[1:].any()
        assert not factors.b[:, 1:].any()
    assert moved(start, after) == set(start)


def test_a_padded_client_trains_as_one_of_its_rank(tiny_clip: Clip, random_images: Maker) -> None:
    """With the scaling of the large rank: 1 / sqrt(3) for both."""
    data = random_images(8)
    large = attached(copy_of(tiny_clip), rank=3, dropout=0.0)
    small = attached(copy_of(tiny_clip), rank=1, alpha=1 / math.sqrt(3), dropout=0.0)
    start = cut_to_rank(filled(large), 1)
    padded, _ = train(large, start, data)
    own, _ = train(small, {n: first_of(n, t) for n, t in start.items()}, data)
    for name, tensor in own.items():
        torch.testing.assert_close(first_of(name, padded[name]), tensor, rtol=1e-4, atol=1e-6)


def copy_of(clip: Clip) -> Clip:
    return copy.deepcopy(clip)


def first_of(name: str, tensor: Tensor) -> Tensor:
    return tensor[:1] if "lora_A" in name else tensor[:, :1]


@pytest.mark.parametrize("share", [True, False])
def test_fedsa_goes_on_with_its_own_b(tiny_clip: Clip, random_images: Maker, share: bool) -> None:
    classifier, data = attached(tiny_clip), random_images(6)
    start = filled(classifier)
    personal = one_factor(start, "B")
    sent, kept = train(classifier, start, data, FedSALoRARule(share))
    plain, _ = train(classifier, start, data)
    assert kept.keys() == personal
    assert all(torch.equal(kept[name], plain[name]) for name in personal)
    assert moved(start, sent) == (set(start) if share else set(start) - personal)

    # Next round another B comes from the server: what counts is the one on the node.
    other = {n: (-t if n in personal else t) for n, t in start.items()}
    again, kept_again = train(classifier, other, data, FedSALoRARule(share), kept)
    expected, _ = train(classifier, {**other, **kept}, data)
    assert all(torch.equal(kept_again[name], expected[name]) for name in personal)
    for name in start.keys() - personal:
        assert torch.equal(again[name], expected[name])
    if not share:
        assert all(torch.equal(again[name], other[name]) for name in personal)


def test_fedsa_does_not_keep_what_diverged() -> None:
    names = ("m.lora_A.weight", "m.lora_B.weight")
    tuned = {name: torch.nn.Parameter(torch.ones(2, 2)) for name in names}
    rule = FedSALoRARule()
    rule.begin(LocalStart(tuned, {name: torch.ones(2, 2) for name in names}))
    with torch.no_grad():
        tuned[names[1]][0, 0] = torch.nan
    with pytest.raises(AdapterError, match=r"^B: m\.lora_B\.weight has 1 of 4 values not finite"):
        rule.finish(1)

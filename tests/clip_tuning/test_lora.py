"""LoRA on CLIP's attention: sizes, scaling, merging, training, and files that peft reads."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import num_parameters
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.dropout import Dropout
from fl2ora.clip_tuning.low_rank import LowRankLinear
from fl2ora.clip_tuning.methods.logit_scale import LogitScale
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.federated_data.images import LabelledImages

NAMES = ("cat", "boot", "dog")
TEMPLATE = ("a photo of a {}.",)
Maker = Callable[..., LabelledImages]


def _attach(clip: Clip, lora: LoRA | None = None, seed: int = 0) -> ClipClassifier:
    torch.manual_seed(seed)
    return (lora or LoRA()).attach(clip, NAMES, TEMPLATE).eval()


def _randomise(classifier: ClipClassifier, scale: float = 0.3) -> None:
    """Give every tuned tensor, so also B, values that matter."""
    generator = torch.Generator().manual_seed(3)
    classifier.restore(
        {
            n: scale * torch.randn(t.shape, generator=generator)
            for n, t in classifier.export().items()
        }
    )


def _pixels() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _logits(classifier: ClipClassifier) -> Tensor:
    with torch.no_grad():
        logits: Tensor = classifier(_pixels())
    return logits


def _zero_shot(folder: Path) -> ClipClassifier:
    return ClipClassifier(load_clip(str(folder)), NAMES, TEMPLATE).eval()


@pytest.fixture(scope="module")
def vit_b_16() -> CLIPModel:
    """Return openai/clip-vit-base-patch16 in shape alone, without memory for its weights."""
    config = CLIPConfig(
        text_config={"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16},
        projection_dim=512,
    )
    with torch.device("meta"):
        return CLIPModel(config)


def test_the_shape_is_vit_b_16_s(vit_b_16: CLIPModel) -> None:
    assert sum(p.numel() for p in vit_b_16.parameters()) == 149_620_737


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # 12 layers x 3 projections x r x (in + out): 2 x 1024 x 36 + 2 x 1536 x 36
        ({}, 184_320),
        ({"rank": 1}, 92_160),
        ({"rank": 4}, 368_640),
        ({"towers": "vision"}, 110_592),
        ({"towers": "text"}, 73_728),
        ({"targets": "q,v"}, 122_880),
        ({"targets": "q,k,v,o"}, 245_760),
        ({"targets": " o "}, 61_440),
    ],
)
def test_parameters_on_vit_b_16(
    vit_b_16: CLIPModel, tiny_clip: Clip, arguments: dict[str, object], expected: int
) -> None:
    clip = Clip("meta", copy.deepcopy(vit_b_16), tiny_clip.tokenizer, Preprocessing(224, 224))
    lora = LoRA(**arguments)  # type: ignore[arg-type]
    classifier = lora.attach(clip, NAMES, TEMPLATE)
    assert sum(p.numel() for p in classifier.tuned.values()) == expected
    trained = [n for n, p in classifier.named_parameters() if p.requires_grad]
    assert len(trained) == len(classifier.tuned)


@pytest.mark.parametrize(
    ("arguments", "towers", "projections"),
    [
        ({}, {"text_model", "vision_model"}, {"q_proj", "k_proj", "v_proj"}),
        ({"towers": "vision"}, {"vision_model"}, {"q_proj", "k_proj", "v_proj"}),
        ({"towers": "text"}, {"text_model"}, {"q_proj", "k_proj", "v_proj"}),
        ({"targets": "q, o"}, {"text_model", "vision_model"}, {"q_proj", "out_proj"}),
    ],
)
def test_tuned_names_follow_towers_and_targets(
    tiny_clip: Clip, arguments: dict[str, str], towers: set[str], projections: set[str]
) -> None:
    names = list(_attach(tiny_clip, LoRA(**arguments)).export())  # type: ignore[arg-type]
    expected = [
        f"{tower}.encoder.layers.{layer}.self_attn.{projection}.lora_{part}.weight"
        for tower in towers
        for layer in range(2)
        for projection in projections
        for part in "AB"
    ]
    assert names == sorted(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank: expected at least 1, found 0"),
        ({"dropout": 1.0}, "dropout: expected 0 <= dropout < 1, found 1.0"),
        ({"dropout": -0.1}, "dropout: expected 0 <= dropout < 1, found -0.1"),
        ({"towers": "image"}, "towers: expected one of both, vision, text, found 'image'"),
        ({"targets": "q,x"}, "targets: expected names among q, k, v, o, fc1, fc2, found 'q,x'"),
        ({"targets": ""}, "targets: expected names among q, k, v, o, fc1, fc2, found ''"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        LoRA(**arguments)  # type: ignore[arg-type]


def test_first_logits_equal_zero_shot(tiny_clip: Clip, tiny_clip_folder: Path) -> None:
    classifier = _attach(tiny_clip)
    export = classifier.export()
    assert all(bool((t == 0).all()) == ("lora_B" in name) for name, t in export.items())
    assert torch.equal(_logits(classifier), _logits(_zero_shot(tiny_clip_folder)))


def test_every_tuned_layer_is_one_that_is_computed_faster(tiny_clip: Clip) -> None:
    layers = [m for m in _attach(tiny_clip).modules() if isinstance(m, LoraLayer)]
    assert layers
    assert {type(layer) for layer in layers} == {LowRankLinear}
    assert {type(d) for layer in layers for d in layer.lora_dropout.values()} == {Dropout}


@pytest.mark.parametrize(
    ("lora", "scale"),
    [
        (LoRA(rank=2), 1 / math.sqrt(2)),
        (LoRA(rank=4, alpha=3.0), 1.5),
        (LoRA(rank=4, alpha=3.0, rslora=False), 0.75),
        (LoRA(rank=1, alpha=0.5), 0.5),
    ],
)
def test_effective_weights_are_w_plus_s_b_a(
    tiny_clip: Clip, tiny_clip_folder: Path, lora: LoRA, scale: float
) -> None:
    classifier = _attach(tiny_clip, lora)
    _randomise(classifier)
    adapter = classifier.export()
    by_hand = _zero_shot(tiny_clip_folder)
    before = _logits(by_hand)
    with torch.no_grad():
        for name in adapter:
            if "lora_A" in name:
                module = name.removesuffix(".lora_A.weight")
                update = adapter[f"{module}.lora_B.weight"] @ adapter[name]
                by_hand.clip.get_submodule(module).weight += scale * update
    found, expected = _logits(classifier), _logits(by_hand)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found - before).abs().max()) > 1e-2


def test_merged_weights_give_the_same_logits(tiny_clip: Clip) -> None:
    classifier = _attach(tiny_clip, LoRA(towers="both", targets="q,k,v,o"))
    _randomise(classifier)
    merged = copy.deepcopy(classifier)
    merged.clip = merged.clip.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(_logits(merged), _logits(classifier), rtol=1e-5, atol=1e-5)


def _train(classifier: ClipClassifier, data: LabelledImages, steps: int, seed: int = 0) -> Tensor:
    plan = TrainingPlan(
        CrossEntropy(), epochs=steps, batch_size=len(data), learning_rate=0.1, seed=seed
    )
    update, _ = local_train(classifier, data, plan)
    return torch.tensor(update.metrics["loss"])


def test_training_changes_every_tuned_tensor_and_no_other(
    tiny_clip: Clip, random_images: Maker
) -> None:
    """B is zero at first, so A has a gradient only from the second step on."""
    classifier = _attach(tiny_clip)
    tuned = {id(p) for p in classifier.tuned.values()}
    frozen = {n: p.clone() for n, p in classifier.named_parameters() if id(p) not in tuned}
    buffers = {n: b.clone() for n, b in classifier.named_buffers()}
    before = classifier.export()
    _train(classifier, random_images(6), steps=2)
    after = classifier.export()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is not None and bool(p.grad.any()) for p in classifier.tuned.values())
    parameters = dict(classifier.named_parameters())
    assert len(frozen) == 78
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    assert all(torch.equal(dict(classifier.named_buffers())[n], b) for n, b in buffers.items())
    assert not classifier.training


def test_training_lowers_the_loss(tiny_clip: Clip, random_images: Maker) -> None:
    classifier, data = _attach(tiny_clip, LoRA(dropout=0.0)), random_images(6)
    first = float(_train(classifier, data, steps=1))
    _train(classifier, data, steps=30)
    found = torch.nn.functional.cross_entropy(predict(classifier, data.images), data.labels)
    assert float(found) < 0.5 * first


def test_dropout_is_on_in_training_and_drawn_from_the_seed(
    tiny_clip_folder: Path, random_images: Maker
) -> None:
    def trained(dropout: float, seed: int) -> Tensor:
        classifier = _attach(load_clip(str(tiny_clip_folder)), LoRA(dropout=dropout))
        _randomise(classifier)
        before = torch.get_rng_state()
        _train(classifier, random_images(6), steps=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([t.flatten() for t in classifier.export().values()])

    assert torch.equal(trained(0.5, 0), trained(0.5, 0))
    # One batch holds all images: without dropout the seed changes only the order of a sum.
    calm = trained(0.0, 0)
    torch.testing.assert_close(calm, trained(0.0, 1), rtol=1e-4, atol=1e-5)
    assert float((trained(0.5, 0) - trained(0.5, 1)).abs().max()) > 1e-3
    assert float((trained(0.5, 0) - calm).abs().max()) > 1e-3


def test_peft_reads_what_is_saved(tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path) -> None:
    lora = LoRA(rank=3, alpha=2.0)
    classifier = _attach(tiny_clip, lora)
    _randomise(classifier)
    lora.save(classifier, tmp_path / "out" / "adapter")
    files = {path.name for path in (tmp_path / "out" / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    base = CLIPModel.from_pretrained(tiny_clip_folder)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter")).eval()
    fresh = _zero_shot(tiny_clip_folder)
    fresh.clip = theirs
    torch.testing.assert_close(_logits(fresh), _logits(classifier))
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 2.0, True)


def test_peft_gives_equal_logits_with_the_scale_that_the_model_card_sets(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    method = LogitScale("lora(rank=3)")
    classifier = method.attach(tiny_clip, NAMES, TEMPLATE).eval()
    _randomise(classifier)
    method.save(classifier, tmp_path)
    before = math.log(float(_zero_shot(tiny_clip_folder).clip.logit_scale.exp()))
    found = json.loads((tmp_path / "logit_scale.json").read_text())
    assert found["logit_scale"] == float(classifier.clip.logit_scale.detach())
    assert found["before"] == pytest.approx(before, abs=1e-6)
    base = CLIPModel.from_pretrained(tiny_clip_folder)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    fresh = _zero_shot(tiny_clip_folder)
    fresh.clip = model
    assert not torch.allclose(_logits(fresh), _logits(classifier), atol=1e-3)
    card = (tmp_path / "README.md").read_text()
    exec(card.split("```python")[-1].split("```")[0], {"model": model})
    torch.testing.assert_close(_logits(fresh), _logits(classifier))


def test_adapter_size_is_that_of_the_factors(tiny_clip: Clip) -> None:
    # 2 towers x 2 layers x 3 projections x 2 x (32 + 32)
    assert num_parameters(_attach(tiny_clip).export()) == 1536

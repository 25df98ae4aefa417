"""Numbers of parameters on published shapes, on the meta device: no memory, no arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from fl2ora.clip_tuning.adapter import num_parameters
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.plugins import load

NAMES = ("cat", "ankle_boot", "dog", "fish", "tree")  # K = 5
TEMPLATES = ("a photo of a {}.", "a drawing of a {}.")


def _shape(patch: int, text: int, vision: int, heads: tuple[int, int], blocks: int) -> CLIPModel:
    config = CLIPConfig(
        text_config={
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "num_attention_heads": heads[0],
        },
        vision_config={
            "hidden_size": vision,
            "intermediate_size": 4 * vision,
            "num_attention_heads": heads[1],
            "num_hidden_layers": blocks,
            "patch_size": patch,
        },
        projection_dim=text,
    )
    with torch.device("meta"):
        return CLIPModel(config)


def _siglip() -> SiglipModel:
    inside = {"bos_token_id": None, "eos_token_id": 1}  # the defaults lie outside the vocabulary
    with torch.device("meta"):
        return SiglipModel(SiglipConfig(text_config=inside))


@pytest.fixture(scope="module")
def shapes() -> dict[str, CLIPModel | SiglipModel]:
    return {
        "siglip-b16": _siglip(),
        "b16": _shape(16, 512, 768, (8, 12), 12),
        "b32": _shape(32, 512, 768, (8, 12), 12),
        "l14": _shape(14, 768, 1024, (12, 16), 24),
    }


# Shapes as text, d_t = 512, d_v = 768, D = 512, 12 blocks each; see docs/tuning.md.
B16 = {
    "zero_shot": 0,
    "lora": 184_320,
    "lora(rank=8)": 737_280,
    "lora(dora=True)": 184_320 + 12 * 3 * (512 + 768),  # one length per output
    "lora(blocks='top3')": 184_320 // 4,
    "lora(blocks='mid', towers='vision')": 110_592 // 3,
    "lora(blocks='0,11', targets='q')": 2 * 2 * 2 * (512 + 768),
    "lora(targets='fc1,fc2', rank=1)": 12 * 2 * 5 * (512 + 768),
    "layer_norm": 65_536,
    "layer_norm(towers='vision')": 39_936,
    "layer_norm(towers='text')": 25_600,
    "bitfit": 171_008,
    "bitfit(biases='fl2ora')": 124_928,
    "full": 149_620_736,
    "logit_scale": 1,
    "logit_scale('lora')": 184_321,
    "linear_probe": 5 * 513,
    "clip_adapter": 131_072,
    "task_res": 5 * 512,
    "coop": 8_192,
    "coop(length=4)": 2_048,
    "coop(length=4, class_specific=True)": 5 * 2_048,
    "kgcoop": 2_048,
    "prograd": 8_192,
    "cocoop": 35_360,
    "tcp": 331_904,
    "fedotp": 8_192,
    "fedpgp": 8_192,
    "promptfolio": 8_192,
    "tip_adapter": 16 * 5 * 512,
    "tip_adapter_f": 2 * 16 * 5 * 512,
    "vpt": 12 * 8 * 768,
    "vpt(depth=1)": 6_144,
    "vpt(depth=12)": 73_728,
    "ivlp": 23_040,
    "ivlp(depth=12)": 30_720,
    "maple": 3_555_072,
    "prompt_src": 46_080,
    "fedtpg": 4_206_080,
}

KEPT_B16 = {"fedotp": 8_192, "fedpgp": 64 + 2_048, "promptfolio": 8_192}  # personal parts


def _count(
    shapes: dict[str, CLIPModel | SiglipModel], name: str, tiny_clip: Clip, spec: str
) -> int:
    clip = Clip(name, copy.deepcopy(shapes[name]), tiny_clip.tokenizer, Preprocessing(224, 224))
    with torch.device("meta"):
        classifier = load(spec, TuningMethod).attach(clip, NAMES, TEMPLATES)
    trained = {n: p for n, p in classifier.named_parameters() if p.requires_grad}
    assert {id(p) for p in trained.values()} == {id(p) for p in classifier.trained}
    kept = num_parameters(dict(classifier.personal))
    assert kept == KEPT_B16.get(spec, 0)
    return num_parameters({**classifier.tuned, **classifier.carried})


@pytest.mark.parametrize(("spec", "expected"), B16.items())
def test_parameter_counts_on_vit_b_16(
    shapes: dict[str, CLIPModel | SiglipModel], tiny_clip: Clip, spec: str, expected: int
) -> None:
    assert _count(shapes, "b16", tiny_clip, spec) == expected


def test_parameter_counts_on_vit_b_32(
    shapes: dict[str, CLIPModel | SiglipModel], tiny_clip: Clip
) -> None:
    for spec in ("lora", "layer_norm", "bitfit", "maple", "vpt", "tcp", "fedtpg"):
        assert _count(shapes, "b32", tiny_clip, spec) == B16[spec]
    patches = 3 * 768 * (32**2 - 16**2) - 768 * (14**2 - 7**2)
    assert _count(shapes, "b32", tiny_clip, "full") == B16["full"] + patches


# d_t = 768, d_v = 1024, D = 768, 12 text blocks and 24 vision blocks
L14 = {
    "lora": 2 * 2 * 3 * (12 * 768 + 24 * 1024),
    "layer_norm": 2 * (25 * 768 + 50 * 1024),
    "bitfit": 12 * 11 * 768 + 2 * 768 // 2 + 24 * 11 * 1024 + 2 * 1024,
    "coop": 16 * 768,
    "cocoop": 4 * 768 + 769 * 48 + 49 * 768,
    "tcp": 4 * 768 + 769 * 192 + 193 * 4 * 768,
    "vpt": 24 * 8 * 1024,
    "ivlp": 9 * 2 * (768 + 1024),
    "maple": 9 * (2 * 768 + 769 * 1024),
    "prompt_src": 9 * 4 * (768 + 1024),
    "clip_adapter": 2 * 768 * 192,
}


@pytest.mark.parametrize(("spec", "expected"), L14.items())
def test_parameter_counts_on_vit_l_14(
    shapes: dict[str, CLIPModel | SiglipModel], tiny_clip: Clip, spec: str, expected: int
) -> None:
    assert _count(shapes, "l14", tiny_clip, spec) == expected


# Both towers 768 wide with 12 blocks; a block has biases of 11 widths, the pooling head of 10.
SIGLIP_B16 = {
    "lora": 2 * 12 * 3 * 2 * (768 + 768),
    "layer_norm": 2 * 768 * (25 + 25 + 1),
    "bitfit": 768 * (2 * 12 * 11 + 2 + 2 + 10),
    "bitfit(biases='fl2ora')": 768 * (2 * 12 * 8 + 2 + 2 + 7),
    "full": 203_155_968,
    "logit_scale": 1,
    "linear_probe": 5 * 769,
    "clip_adapter": 2 * 768 * 192,
    "task_res": 5 * 768,
}


@pytest.mark.parametrize(("spec", "expected"), SIGLIP_B16.items())
def test_parameter_counts_on_siglip_b_16(
    shapes: dict[str, CLIPModel | SiglipModel], tiny_clip: Clip, spec: str, expected: int
) -> None:
    assert _count(shapes, "siglip-b16", tiny_clip, spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ivlp(depth=13)", "depth: expected at most 12, the blocks of the model's text tower, "),
        ("lora(blocks='12')", "blocks: expected blocks of the model's text tower, which has 0 to "),
        ("tcp(block=12)", "block: expected one of the model's text blocks 1 to 11, found 12"),
    ],
)
def test_depth_beyond_the_tower_is_refused(
    shapes: dict[str, CLIPModel | SiglipModel], tiny_clip: Clip, spec: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        _count(shapes, "l14", tiny_clip, spec)

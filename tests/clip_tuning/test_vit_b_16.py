"""A CLIP of the published size and layout, from its files to one step of training.

The folder is laid out as openai/clip-vit-base-patch16 is: ``vocab.json`` and ``merges.txt`` of a
word-end BPE, the end of text with the highest id, 49407, and yet ``eos_token_id`` 2 in the config.
Its weights are random and its vocabulary is one of letters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel

from fl2ora.calibration.losses.cross_entropy import CrossEntropy
from fl2ora.client_app.training import local_train
from fl2ora.client_app.training_plan import TrainingPlan
from fl2ora.clip_tuning.adapter import num_parameters
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.federated_data.images import LabelledImages

Maker = Callable[..., LabelledImages]
START, END = "<|startoftext|>", "<|endoftext|>"
PREPROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def _save_tokenizer(folder: Path) -> None:
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    vocabulary |= {START: 49406, END: 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                **special,
                "add_prefix_space": False,
                "do_lower_case": True,
                "errors": "replace",
                "model_max_length": 77,
                "tokenizer_class": "CLIPTokenizer",
            }
        )
    )


def _save_model(folder: Path) -> None:
    """Write random weights, in half precision for the sake of the disk."""
    config = CLIPConfig(
        text_config={
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16},
        projection_dim=512,
    )
    with torch.device("meta"):
        model = CLIPModel(config).half()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif parameter.ndim > 1 or "class_embedding" in name:
                parameter.uniform_(-0.05, 0.05, generator=generator)
            else:
                parameter.fill_(3.0 if name == "logit_scale" else 0.0)
    model.save_pretrained(folder)


@pytest.mark.slow
def test_one_training_step_and_one_evaluation_at_vit_b_16_size(
    tmp_path: Path, random_images: Maker
) -> None:
    _save_tokenizer(tmp_path)
    _save_model(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    classifier = build_classifier(
        str(tmp_path), "lora", ("cat", "ankle_boot"), ("a photo of a {}.",), seed=0
    )
    (tmp_path / "model.safetensors").unlink()

    parameters = sum(p.numel() for p in classifier.clip.get_base_model().parameters())
    assert parameters == 149_620_737 + 184_320
    before = classifier.export()
    assert num_parameters(before) == 184_320
    ids = classifier.prompt_ids.tolist()
    letters = sorted(ByteLevel.alphabet())
    a, cat, stop = letters.index("a") + 256, 513, letters.index(".") + 256
    assert ids[0][0] == 49406
    assert ids[0][1] == a
    first_end = ids[0].index(49407)
    assert ids[0][first_end - 3 : first_end] == [a, cat, stop]
    assert set(ids[0][first_end:]) == {49407}
    assert ids[1][-1] == 49407

    whole = random_images(5, classes=2)
    images = torch.randint(0, 256, (5, 3, 40, 50), generator=torch.Generator().manual_seed(1))
    data = LabelledImages(images.to(torch.uint8), whole.labels, whole.domains)
    train, test = data.select(torch.arange(3)), data.select(torch.arange(3, 5))
    first = predict(classifier, test.images)
    plan = TrainingPlan(CrossEntropy(), batch_size=3, learning_rate=1.0, augmentation="crop_flip")
    update, _ = local_train(classifier, train, plan)
    second = predict(classifier, test.images)

    assert first.shape == second.shape == (2, 2)
    assert bool(torch.isfinite(second).all())
    assert update.metrics["steps"] == 1
    assert 0 < update.metrics["loss"] < 20
    changed = {name for name in before if not torch.equal(before[name], update.adapter[name])}
    assert {name for name in before if "lora_B" in name} <= changed  # A's gradient is zero yet
    assert not torch.equal(first, second)

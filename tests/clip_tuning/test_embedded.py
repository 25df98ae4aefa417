"""The embedded CLIP: what it is, that transformers reads its export, that damage is named."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from fl2ora.clip_tuning.embedded import assets_folder, export_embedded, load_embedded, save_embedded
from fl2ora.clip_tuning.tiny_clip import new_model, new_preprocessor, new_tokenizer

TEXTS = ["a picture of a circle.", "A Photo of an ANKLE BOOT!", "naïve 图 🙂", ""]


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any, dict[str, Any]]:
    return load_embedded()


def _features(model: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
    return images, texts


def test_embedded_model_is_small_float32_and_in_evaluation_mode(embedded: Any) -> None:
    model, _, _ = embedded
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.5e6
    assert 1 < model.logit_scale.exp().item() <= 100.1


def test_loading_leaves_the_global_generator_unchanged() -> None:
    before = torch.get_rng_state()
    load_embedded()
    assert torch.equal(torch.get_rng_state(), before)


def test_end_of_text_has_the_highest_id_and_ends_every_text(embedded: Any) -> None:
    model, tokenizer, _ = embedded
    config = model.config.text_config
    assert config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    assert config.eos_token_id != 2
    assert config.vocab_size == len(tokenizer)
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    for ids in tokenizer(TEXTS)["input_ids"]:
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1


def test_any_text_survives_the_tokenizer_in_lower_case(embedded: Any) -> None:
    _, tokenizer, _ = embedded
    assert tokenizer.unk_token is None
    for text in [*TEXTS, "\t\x00\u200d", "Ünïcödé ﷽"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.lower().strip()
    assert tokenizer("A CIRCLE")["input_ids"] == tokenizer("a circle")["input_ids"]


def test_captions_are_short(embedded: Any) -> None:
    model, tokenizer, _ = embedded
    longest = model.config.text_config.max_position_embeddings
    assert len(tokenizer("a picture of a lightning bolt.")["input_ids"]) <= longest / 2
    assert tokenizer.model_max_length == longest == 32


def test_padding_does_not_change_a_text(embedded: Any) -> None:
    model, tokenizer, _ = embedded
    _, together = _features(model, tokenizer)
    tokens = tokenizer([TEXTS[0]], return_tensors="pt")
    with torch.no_grad():
        alone = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
    torch.testing.assert_close(alone[0], together[0], rtol=1e-4, atol=1e-5)


def test_preprocessing_is_openais_at_the_models_size(embedded: Any) -> None:
    model, _, preprocessor = embedded
    assert preprocessor["crop_size"] == {"height": 32, "width": 32}
    assert preprocessor["size"] == {"shortest_edge": model.config.vision_config.image_size}
    assert preprocessor["image_mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert preprocessor["image_std"] == [0.26862954, 0.26130258, 0.27577711]
    assert preprocessor["resample"] == 3  # bicubic


def test_transformers_loads_the_export_bit_for_bit(embedded: Any, tmp_path: Path) -> None:
    model, tokenizer, preprocessor = embedded
    export_embedded(tmp_path)
    again = CLIPModel.from_pretrained(tmp_path).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert their_tokenizer(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert their_tokenizer.pad_token_id == tokenizer.pad_token_id
    for ours, theirs in zip(
        _features(model, tokenizer), _features(again, their_tokenizer), strict=True
    ):
        assert torch.equal(ours, theirs)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved == preprocessor


def test_saved_weights_are_half_precision_and_load_exactly(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(TEXTS)
    model = new_model(tokenizer, seed=1)
    save_embedded(model, tokenizer, new_preprocessor(), tmp_path / "new" / "folder")
    again, their_tokenizer, preprocessor = load_embedded(tmp_path / "new" / "folder")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name
    assert their_tokenizer(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert preprocessor == new_preprocessor()


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(TEXTS)
    model = new_model(tokenizer, seed=1)
    with torch.no_grad():
        model.logit_scale.fill_(1e6)
    with pytest.raises(ValueError, match="logit_scale: expected numbers finite in float16"):
        save_embedded(model, tokenizer, new_preprocessor(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_initial_weights_follow_the_seed_alone() -> None:
    tokenizer = new_tokenizer(TEXTS)
    before = torch.get_rng_state()
    first, same, other = (new_model(tokenizer, seed).state_dict() for seed in (1, 1, 2))
    name = "visual_projection.weight"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_assets_fit_into_a_flower_bundle() -> None:
    files = sorted(assets_folder().iterdir())
    assert files
    assert {path.suffix for path in files} <= {".json"}
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 4_000_000


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(assets_folder(), tmp_path / "assets"))


@pytest.mark.parametrize(
    "name", ["config.json", "weights.json", "tokenizer.json", "preprocessor_config.json"]
)
def test_a_missing_or_broken_file_is_named(copied: Path, name: str) -> None:
    (copied / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name}: expected JSON, found"):
        load_embedded(copied)
    (copied / name).write_text("[]")
    with pytest.raises(ValueError, match=f"{name}: expected a JSON object, found list"):
        load_embedded(copied)
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: expected .*found no such file"):
        load_embedded(copied)


def test_damaged_weights_are_named(copied: Path) -> None:
    path = copied / "weights.json"
    record = json.loads(path.read_text())

    def expect(message: str, **changes: object) -> None:
        path.write_text(json.dumps({**record, **changes}))
        with pytest.raises(ValueError, match=f"weights.json: {message}"):
            load_embedded(copied)

    expect("expected a list of strings under 'base64'", base64=None)
    expect("expected base64 under 'base64'", base64=["*"])
    expect("expected content of SHA-256", base64=record["base64"][:-1])
    other = b"no safetensors file"
    digest = hashlib.sha256(other).hexdigest()
    text = base64.b64encode(other).decode()
    expect("expected a safetensors file", base64=[text], sha256=digest)


def test_weights_of_another_model_are_named(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"weights.json: expected the tensors of .*token_embedding"
    ):
        load_embedded(copied)


def test_a_file_that_is_no_tokenizer_is_named(copied: Path) -> None:
    (copied / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer.json: expected a tokenizer"):
        load_embedded(copied)

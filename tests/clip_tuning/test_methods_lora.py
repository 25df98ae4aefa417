"""LoRA's further options: blocks, layers, DoRA, and starting from a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from fl2ora.clip_tuning.adapter import AdapterError
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip, load_clip
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.clip_tuning.selection import chosen_blocks, chosen_depth, parse_blocks
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load

NAMES = ("cat", "boot", "dog")
TEMPLATE = ("a photo of a {}.",)


def _attach(clip: Clip, lora: LoRA, seed: int = 0) -> ClipClassifier:
    torch.manual_seed(seed)
    return lora.attach(clip, NAMES, TEMPLATE).eval()


def _changed(classifier: ClipClassifier) -> ClipClassifier:
    rng = torch.Generator().manual_seed(3)
    classifier.restore(
        {
            name: tensor + 0.3 * torch.randn(tensor.shape, generator=rng)
            for name, tensor in classifier.export().items()
        }
    )
    return classifier


@torch.no_grad()
def _logits(classifier: ClipClassifier) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    logits: Tensor = classifier(torch.randn(4, 3, 32, 32, generator=rng))
    return logits


@pytest.fixture(scope="module")
def twelve() -> CLIPModel:
    """Return a CLIP of 12 text and 6 vision blocks, in shape alone."""
    config = CLIPConfig(vision_config={"num_hidden_layers": 6})
    with torch.device("meta"):
        return CLIPModel(config)


@pytest.mark.parametrize(
    ("wanted", "text", "vision"),
    [
        ("all", range(12), range(6)),
        ("top3", [9, 10, 11], [3, 4, 5]),
        ("bottom", [0, 1, 2, 3], [0, 1]),
        ("mid", [4, 5, 6, 7], [2, 3]),
        ("up", [8, 9, 10, 11], [4, 5]),
        ("half-up", [6, 7, 8, 9, 10, 11], [3, 4, 5]),
        ("half-bottom", [0, 1, 2, 3, 4, 5], [0, 1, 2]),
        ("5, 0", [0, 5], [0, 5]),
        ("3,3", [3], [3]),
    ],
)
def test_blocks_argument_selects_tuned_blocks(
    twelve: CLIPModel, wanted: str, text: list[int], vision: list[int]
) -> None:
    parsed = parse_blocks(wanted)
    assert chosen_blocks(twelve, "text", parsed) == list(text)
    assert chosen_blocks(twelve, "vision", parsed) == list(vision)


@pytest.mark.parametrize("wanted", ["", "top2", "-1", "1-3", "all,1"])
def test_unknown_block_names_are_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"^blocks: expected .*, found {wanted!r}$"):
        LoRA(blocks=wanted)


@pytest.mark.parametrize(
    ("blocks", "found"),
    [("2", "'2'"), ("0,7", "'0,7'"), ("top3", "'top3'"), ("bottom", "'bottom'")],
)
def test_blocks_the_model_lacks_are_refused(tiny_clip: Clip, blocks: str, found: str) -> None:
    message = (
        f"blocks: expected blocks of the model's vision tower, which has 0 to 1, found {found}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _attach(tiny_clip, LoRA(blocks=blocks))


def test_depth_argument_selects_tuned_layers(twelve: CLIPModel) -> None:
    assert chosen_depth(twelve, 0, ("text",), twelfths=9) == 9
    assert chosen_depth(twelve, 0, ("vision", "text"), twelfths=9) == 5
    assert chosen_depth(twelve, 0, ("vision", "text"), twelfths=12) == 6
    assert chosen_depth(twelve, 12, ("text",), twelfths=9) == 12
    with pytest.raises(ValueError, match=r"^depth: expected at most 6, .* vision tower, found 7$"):
        chosen_depth(twelve, 7, ("text", "vision"), twelfths=9)


def test_tuned_names_of_dora_on_one_block(tiny_clip: Clip) -> None:
    lora = LoRA(targets="k, fc2", blocks="1", dora=True, rank=3)
    shapes = {name: tuple(t.shape) for name, t in _attach(tiny_clip, lora).export().items()}
    expected = {}
    for tower in ("text_model", "vision_model"):
        for layer, size in (("mlp.fc2", 64), ("self_attn.k_proj", 32)):
            stem = f"{tower}.encoder.layers.1.{layer}"
            expected[f"{stem}.lora_A.weight"] = (3, size)
            expected[f"{stem}.lora_B.weight"] = (32, 3)
            expected[f"{stem}.lora_magnitude_vector"] = (32,)
    assert shapes == expected


def test_dora_weights_have_rows_of_the_tuned_lengths(
    tiny_clip: Clip, tiny_clip_folder: Path
) -> None:
    """``m (W + s B A) / |W + s B A|``, row by row, with m in training."""
    classifier = _changed(_attach(tiny_clip, LoRA(rank=4, alpha=3.0, dora=True, targets="q,fc1")))
    adapter = classifier.export()
    by_hand = ClipClassifier(load_clip(str(tiny_clip_folder)), NAMES, TEMPLATE).eval()
    before = _logits(by_hand)
    with torch.no_grad():
        for name in adapter:
            if name.endswith("lora_A.weight"):
                stem = name.removesuffix(".lora_A.weight")
                layer = by_hand.clip.get_submodule(stem)
                moved = layer.weight + 1.5 * adapter[f"{stem}.lora_B.weight"] @ adapter[name]
                lengths = adapter[f"{stem}.lora_magnitude_vector"] / moved.norm(dim=1)
                layer.weight.copy_(lengths[:, None] * moved)
    torch.testing.assert_close(_logits(classifier), _logits(by_hand), rtol=1e-4, atol=1e-4)
    assert float((_logits(by_hand) - before).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 3, "alpha": 2.0, "targets": "q,v,fc1", "blocks": "1", "dropout": 0.1},
        {"dora": True, "rslora": False, "towers": "text"},
    ],
)
def test_start_from_an_adapter_of_ours(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    first = LoRA(**options)  # type: ignore[arg-type]
    classifier = _changed(_attach(tiny_clip, first))
    first.save(classifier, tmp_path)
    second = LoRA(start=str(tmp_path))
    again = _attach(load_clip(str(tiny_clip_folder)), second, seed=9)
    assert torch.equal(_logits(again), _logits(classifier))
    assert list(again.export()) == list(classifier.export())
    assert all(parameter.requires_grad for parameter in again.tuned.values())
    assert again.images_frozen == classifier.images_frozen
    second.save(again, tmp_path / "again")
    before, after = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (tmp_path, tmp_path / "again")
    )
    assert before == after


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_start_from_an_adapter_of_peft(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, init: Any
) -> None:
    base = CLIPModel.from_pretrained(tiny_clip_folder)
    config = LoraConfig(r=2, target_modules=["q_proj", "out_proj"], init_lora_weights=init)
    theirs = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    theirs.save_pretrained(str(tmp_path))
    expected = ClipClassifier(load_clip(str(tiny_clip_folder)), NAMES, TEMPLATE).eval()
    expected.clip = PeftModel.from_pretrained(expected.clip, str(tmp_path)).eval()
    ours = _attach(tiny_clip, LoRA(start=str(tmp_path)))
    torch.testing.assert_close(_logits(ours), _logits(expected))


@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_2"])
def test_start_refuses_an_adapter_to_changed_base_weights(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, init: Any
) -> None:
    """On the model's own weights its factors would be something else than what was trained."""
    base = CLIPModel.from_pretrained(tiny_clip_folder)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=init)
    get_peft_model(base, config).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=f"^start: expected an adapter to .*'{init}'"):
        _attach(tiny_clip, LoRA(start=str(tmp_path)))


def test_start_refuses_a_folder_without_a_lora_adapter(tiny_clip: Clip, tmp_path: Path) -> None:
    message = "start: expected a folder with adapter_config.json and adapter_model.safetensors"
    with pytest.raises(ValueError, match=f"^{message}, found none at '{tmp_path}/none'$"):
        _attach(tiny_clip, LoRA(start=str(tmp_path / "none")))
    other = get_peft_model(
        tiny_clip.model, IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    )
    other.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"^start: expected a LoRA adapter, found IA3 in "):
        _attach(tiny_clip, LoRA(start=str(tmp_path)))


def _saved(clip: Clip, folder: Path) -> Path:
    """Save an adapter of ours and return its file of settings."""
    LoRA().save(_attach(clip, LoRA()), folder)
    return folder / "adapter_config.json"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"peft_type": "NONE"}', '{"peft_type": "LORA", "r": "x"}',
     '{"peft_type": "LORA", "r": 2, "target_modules": ["nowhere"]}'],
)  # fmt: skip
def test_damaged_settings_are_named(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, text: str
) -> None:
    file = _saved(tiny_clip, tmp_path)
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^start: {re.escape(str(file))}: expected ") as caught:
        _attach(load_clip(str(tiny_clip_folder)), LoRA(start=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bias", "all"), ("bias", "lora_only"), ("modules_to_save", ["visual_projection"]),
     ("trainable_token_indices", [1]), ("layer_replication", [[0, 1]])],
)  # fmt: skip
def test_start_refuses_an_adapter_that_tunes_more_than_factors(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path, setting: str, value: Any
) -> None:
    file = _saved(tiny_clip, tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), setting: value}))
    with pytest.raises(ValueError, match=f"^start: .* found {re.escape(f'{setting}={value!r}')} "):
        _attach(load_clip(str(tiny_clip_folder)), LoRA(start=str(tmp_path)))


def test_weights_that_do_not_fit_their_settings_are_named(
    tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    lora = LoRA(rank=2)
    lora.save(_attach(tiny_clip, lora), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    with pytest.raises(AdapterError, match=r"has shape \(2, 32\), expected \(3, 32\)"):
        _attach(load_clip(str(tiny_clip_folder)), LoRA(start=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "found"),
    [({"rank": 4}, "rank"), ({"dora": True, "alpha": 2.0}, "alpha, dora")],
)
def test_start_refuses_further_arguments(options: dict[str, object], found: str) -> None:
    with pytest.raises(
        ValueError, match=f"^start: expected no argument beside it.* found {found}$"
    ):
        LoRA(start="somewhere", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0, 0.0, -1.0])
@pytest.mark.parametrize("method", ["lora", "lora_residual"])
def test_a_scale_of_nothing_is_refused(method: str, alpha: float) -> None:
    with pytest.raises(UserError, match=f"alpha: expected a number > 0, found {alpha}"):
        load(f"{method}(alpha={alpha})", TuningMethod)


def test_a_start_whose_scale_is_nothing_is_refused(tiny_clip: Clip, tmp_path: Path) -> None:
    lora = LoRA()
    lora.save(_attach(tiny_clip, lora), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for change in (
        {"lora_alpha": 0}, {"alpha_pattern": {"q_proj": 0.0}}, {"lora_dropout": 1.0},
    ):  # fmt: skip
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(ValueError, match=r"start: .*adapter_config\.json: .*: expected a num"):
            _attach(tiny_clip, LoRA(start=str(tmp_path)))

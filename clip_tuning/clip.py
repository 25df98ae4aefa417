"""Loading a CLIP: the embedded one, any checkpoint on a hub, or a folder in transformers format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from clip_tuning.embedded import load_embedded
from clip_tuning.preprocessing import Preprocessing
from experiment.errors import UserError


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP with its tokenizer and preprocessing.

    Attributes:
        name: what it was loaded by.
        model: float32, in evaluation mode, no parameter requires a gradient.
        tokenizer: of the text tower.
        preprocessing: from image bytes to the image tower's input.
    """

    name: str
    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    preprocessing: Preprocessing


def load_clip(name: str) -> Clip:
    """Load a CLIP by ``"embedded"``, a folder, or a hub name; weights are safetensors only.

    Raises:
        UserError: a part is missing or unreadable, naming it and what was expected.
    """
    if name == "embedded":
        model, tokenizer, preprocessor = load_embedded()
    else:
        model, tokenizer, preprocessor = _load_pretrained(name)
    model.eval().requires_grad_(False)
    try:
        preprocessing = Preprocessing.from_config(
            preprocessor, int(model.config.vision_config.image_size)
        )
    except ValueError as error:
        raise UserError(f"model {name!r}: {error}") from None
    return Clip(name, model, tokenizer, preprocessing)


def _load_pretrained(name: str) -> tuple[CLIPModel, PreTrainedTokenizerBase, dict[str, Any]]:
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "~"))):
        raise UserError(f"model: folder {name!r} does not exist")
    try:
        model = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
        path = cached_file(source, "preprocessor_config.json")
        preprocessor = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"model {name!r}: expected a CLIP with config.json, model.safetensors, a tokenizer and "
            f"preprocessor_config.json; {first_line}"
        ) from None
    return model, tokenizer, preprocessor

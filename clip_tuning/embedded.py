"""The embedded CLIP: a small model that travels with the code, as JSON.

A Flower bundle admits only source, TOML, YAML, Markdown and JSON. So the weights are a safetensors
file in half precision, in base64, in JSON; the rest of the folder is what transformers writes.
Nothing is pickled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tokenizers import Tokenizer
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from fl2ora.clip_tuning.model_folder import write_model
from fl2ora.clip_tuning.preprocessor_file import FILE
from fl2ora.clip_tuning.tiny_clip import wrap_tokenizer

_CONFIG, _WEIGHTS = "config.json", "weights.json"
_TOKENIZER = "tokenizer.json"
_LINE = 1024  # characters of base64 in a string of the weights file


def assets_folder() -> Path:
    """Return the folder of the embedded model inside this package."""
    return Path(__file__).parent / "assets"


def load_embedded(
    folder: str | Path | None = None,
) -> tuple[CLIPModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """Load the embedded CLIP; torch's random generator is left as it was.

    Args:
        folder: where ``save_embedded`` wrote the files; None: inside this package.

    Returns:
        The model (float32, CPU, evaluation mode), its tokenizer, and the preprocessing under the
        keys of CLIP's ``preprocessor_config.json``.

    Raises:
        FileNotFoundError: naming the missing file.
        ValueError: naming the damaged file, what was expected and what was found.
    """
    folder = assets_folder() if folder is None else Path(folder)
    config = CLIPConfig.from_dict(_read_json(folder / _CONFIG))
    state = _read_weights(folder / _WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model = CLIPModel(config)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise ValueError(
            f"{folder / _WEIGHTS}: expected the tensors of {folder / _CONFIG}, found {found}"
        ) from None
    text = json.dumps(_read_json(folder / _TOKENIZER))
    try:
        core = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(
            f"{folder / _TOKENIZER}: expected a tokenizer of the tokenizers library, found {error}"
        ) from None
    return model.eval(), wrap_tokenizer(core), _read_json(folder / FILE)


def embedded_preprocessor() -> tuple[dict[str, Any], int]:
    """Return the embedded CLIP's preprocessing as ``load_embedded`` does, and its image size."""
    size = CLIPConfig.from_dict(_read_json(assets_folder() / _CONFIG)).vision_config.image_size
    return _read_json(assets_folder() / FILE), size


def save_embedded(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    preprocessor: dict[str, Any],
    folder: str | Path,
) -> None:
    """Write the files that ``load_embedded`` reads; weights are rounded to half precision.

    Args:
        model: the model to embed.
        tokenizer: from ``fl2ora.clip_tuning.tiny_clip.new_tokenizer``.
        preprocessor: the keys of CLIP's ``preprocessor_config.json``.
        folder: made if it is not there; files of these names are replaced.

    Raises:
        ValueError: if a weight is not finite in half precision; nothing is written then.
    """
    state = {
        name: tensor.detach().cpu().to(torch.float16).contiguous()
        for name, tensor in sorted(model.state_dict().items())
    }
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: expected numbers finite in float16, found inf or nan")
    content = save(state)
    text = base64.b64encode(content).decode("ascii")
    weights = {
        "content": "a safetensors file in base64, split into lines",
        "sha256": hashlib.sha256(content).hexdigest(),
        "base64": [text[start : start + _LINE] for start in range(0, len(text), _LINE)],
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_dict(), "architectures": ["CLIPModel"], "dtype": "float32"}
    _write_json(folder / _CONFIG, config)
    _write_json(folder / _TOKENIZER, json.loads(tokenizer.backend_tokenizer.to_str()))
    _write_json(folder / FILE, preprocessor)
    _write_json(folder / _WEIGHTS, weights)


def export_embedded(folder: str | Path) -> None:
    """Write the embedded CLIP as a folder that transformers loads by itself.

    ``CLIPModel.from_pretrained(folder)`` and ``AutoTokenizer.from_pretrained(folder)`` then give
    the same features, bit by bit.

    Args:
        folder: made if it is not there.
    """
    model, tokenizer, preprocessor = load_embedded()
    write_model(folder, model, tokenizer, preprocessor)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: expected a file of the embedded CLIP, found no such file"
        ) from None
    except ValueError as error:  # neither UTF-8 nor JSON
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with one key a line and a newline at the end."""
    path.write_text(json.dumps(content, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in the weights file, in float32."""
    record = _read_json(path)
    lines, expected = record.get("base64"), record.get("sha256")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{path}: expected a list of strings under 'base64', found none")
    try:
        content = base64.b64decode("".join(lines), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{path}: expected base64 under 'base64', found {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: expected content of SHA-256 {expected}, found {found}")
    try:
        state = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, found {error}") from None
    return {name: tensor.float() for name, tensor in state.items()}

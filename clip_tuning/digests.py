"""Digests of what a node must have in common with the server before it may train with it.

They find mistakes, such as another CLIP of the same shape; a node that lies can send any digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import is_path, user_path
from fl2ora.experiment.spec import Spec, parse_spec, parse_sum

_PROBES = ("The quick brown", "fox; jumps:", "over 13 lazy", "DOGS' naïve", "café-owners?")


def run_digests(
    model: str, method: str, class_names: Sequence[str], templates: Sequence[str]
) -> dict[str, str]:
    """Return digests of base weights, tokenizer, preprocessing, the method's files and templates.

    The model is read for them alone, once in a process, and not kept. The tokenizer's is of what it
    makes of a few probes and of the class names.

    Args:
        model: see ``load_clip``.
        method: spec; of the files and folders it names, such as ``lora(start=...)``, the content
            counts, right in a folder, and not where they lie.
        class_names: of the run.
        templates: of the run.

    Raises:
        UserError: the model or a file cannot be read.
    """
    return {
        **_read(model)[0],
        "tokenizer": _tokenizer_digest(model, tuple(class_names)),
        "files of the method": _digest(_contents(_paths(_spec(method)))),
        "templates": _digest(template.encode() for template in templates),
    }


@lru_cache(maxsize=4)
def _spec(method: str) -> Spec:
    return parse_spec(method)


def adapter_digest(adapter: Adapter) -> str:
    """Return a digest of names, shapes and values, to the bit.

    >>> zero = torch.zeros(2)
    >>> adapter_digest({"a": zero}) == adapter_digest({"a": -zero})
    False
    """
    return _digest(_tensors(adapter))


@lru_cache(maxsize=64)
def _tokenizer_digest(model: str, texts: tuple[str, ...]) -> str:
    return _digest(_tokens(_read(model)[1], texts))


@lru_cache(maxsize=4)
def _read(model: str) -> tuple[Mapping[str, str], PreTrainedTokenizerBase]:
    with torch.random.fork_rng(devices=[]):
        clip = load_clip(model)
    digests = {
        "base weights": _digest(_tensors(clip.model.state_dict())),
        "preprocessing": _digest([repr(clip.preprocessing).encode()]),
    }
    return digests, clip.tokenizer


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    """Return 16 hex digits over parts and their lengths."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{len(part)}\0".encode())
        digest.update(part)
    return digest.hexdigest()


def _tensors(state: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous()
        yield f"{name} {values.dtype} {tuple(values.shape)}".encode()
        yield values.reshape(-1).view(torch.uint8).numpy().data


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[bytes]:
    yield str(len(tokenizer)).encode()
    for row in tokenizer([*_PROBES, *texts])["input_ids"]:
        yield repr([int(token) for token in row]).encode()


def _paths(spec: Spec) -> Iterator[Path]:
    """Yield the files and folders a spec names, in nested specs too; others are not the disk's."""
    for name, value in [*(("", value) for value in spec.args), *spec.kwargs.items()]:
        if is_path(name, value) and user_path(value).exists():
            yield user_path(value)
        elif isinstance(value, str) and value:
            try:
                nested = parse_sum(value)
            except UserError:  # a text of the method's own
                continue
            for _, inner in nested:
                yield from _paths(inner)


def _contents(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield digests of files and of those right in folders, each after its name."""
    for path in paths:
        try:
            for file in _files(path):
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "blake2b").digest()
                yield from (file.name.encode(), content)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _files(path: Path) -> list[Path]:
    """Return a file itself, and of a folder what tells adapters apart.

    What people read does not: peft writes a README beside them. What lies deeper is left alone: a
    folder may hold anything, and all of a disk.
    """
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors"))

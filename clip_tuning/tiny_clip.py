"""The untrained embedded CLIP: its architecture, its tokenizer and its preprocessing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

IMAGE_SIDE = 32
"""Height and width of an image in pixels."""

CONTEXT_LENGTH = 32
"""Most tokens in a text, the first and the last included."""

_BOS, _PAD, _EOS = "<|startoftext|>", "<|pad|>", "<|endoftext|>"


def new_tokenizer(texts: Iterable[str], vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer that lower-cases and knows every UTF-8 text.

    The three special tokens come last and the end of text last of all: transformers' CLIP pools at
    the highest token id where ``eos_token_id`` is 2 and at the first ``eos_token_id`` elsewhere, so
    with the highest id both rules find the same place.

    Args:
        texts: what to learn the merges from.
        vocabulary: most tokens, special ones included; fewer where the texts run out of merges.

    Returns:
        A tokenizer that puts a text between start and end.
    """
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens([_BOS, _PAD, _EOS])
    core.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}",
        special_tokens=[(token, core.token_to_id(token)) for token in (_BOS, _EOS)],
    )
    return wrap_tokenizer(core)


def wrap_tokenizer(core: Tokenizer) -> PreTrainedTokenizerFast:
    """Return transformers' view of a tokenizer learned by ``new_tokenizer``."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def new_preprocessor() -> dict[str, Any]:
    """Return the preprocessing, under the keys of CLIP's ``preprocessor_config.json``.

    Mean and standard deviation are OpenAI's, as published with
    https://huggingface.co/openai/clip-vit-base-patch16.
    """
    return {
        "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": IMAGE_SIDE},
    }


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """Return an untrained CLIP of about 1.2 million parameters that fits the tokenizer.

    Args:
        tokenizer: from ``new_tokenizer``.
        seed: decides the initial weights; torch's own generator is left as it was.
    """
    config = CLIPConfig(
        vision_config={
            "image_size": IMAGE_SIDE,
            "patch_size": 8,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_act": "quick_gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)

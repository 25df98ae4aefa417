"""A small untrained CLIP: its architecture, its tokenizer and its preprocessing."""

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

from fl2ora.clip_tuning.architecture import (
    CONTEXT_LENGTH,
    EMBEDDED,
    IMAGE_SIDE,
    Architecture,
)

_BOS, _PAD, _EOS = "<|startoftext|>", "<|pad|>", "<|endoftext|>"


def new_tokenizer(
    texts: Iterable[str], vocabulary: int = 512, context: int = CONTEXT_LENGTH
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer that lower-cases and knows every UTF-8 text.

    The three special tokens come last and the end of text last of all: transformers' CLIP pools at
    the highest token id where ``eos_token_id`` is 2 and at the first ``eos_token_id`` elsewhere, so
    with the highest id both rules find the same place.

    Args:
        texts: what to learn the merges from.
        vocabulary: most tokens, special ones included; fewer where the texts run out of merges.
        context: most tokens in a text.

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
    return wrap_tokenizer(core, context)


def wrap_tokenizer(core: Tokenizer, context: int = CONTEXT_LENGTH) -> PreTrainedTokenizerFast:
    """Return transformers' view of a tokenizer learned by ``new_tokenizer``."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def new_preprocessor(side: int = IMAGE_SIDE) -> dict[str, Any]:
    """Return the preprocessing for images of that side, as in ``preprocessor_config.json``.

    Mean and standard deviation are OpenAI's, as published with
    https://huggingface.co/openai/clip-vit-base-patch16.
    """
    return {
        "crop_size": {"height": side, "width": side},
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
        "size": {"shortest_edge": side},
    }


def new_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, sizes: Architecture = EMBEDDED
) -> CLIPModel:
    """Return an untrained CLIP that fits the tokenizer; of 1.2 million parameters by default.

    Args:
        tokenizer: from ``new_tokenizer``.
        seed: decides the initial weights; torch's own generator is left as it was.
        sizes: of the towers.
    """
    config = CLIPConfig(
        vision_config={
            "image_size": sizes.image_side,
            "patch_size": sizes.patch,
            "hidden_size": sizes.image_width,
            "intermediate_size": 4 * sizes.image_width,
            "num_hidden_layers": sizes.image_blocks,
            "num_attention_heads": sizes.image_heads,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": sizes.context,
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_blocks,
            "num_attention_heads": sizes.text_heads,
            "hidden_act": "quick_gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        projection_dim=sizes.joint,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)

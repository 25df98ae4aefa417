"""A CLIP of ViT-B/16's shapes with random weights, and names as long as those of ImageNet."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.preprocessing import Preprocessing

LENGTHS = {1: 0.28, 2: 0.34, 3: 0.2, 4: 0.1, 5: 0.05, 6: 0.02, 9: 0.01}  # of names, in tokens
START, END = "<|startoftext|>", "<|endoftext|>"


def class_names(count: int) -> list[str]:
    """Return names of ``LENGTHS`` words, which are a token each."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.tensor(list(LENGTHS.values()))
    picks = torch.multinomial(weights, count, replacement=True, generator=rng).tolist()
    words = [list(LENGTHS)[pick] for pick in picks]
    words[-1] = 9 if count > 10 else 5  # the longest name is always there
    draws = torch.randint(5, 8000, (count, 9), generator=rng).tolist()
    return [" ".join(f"w{d}" for d in row[:n]) for row, n in zip(draws, words, strict=True)]


def vit_b_16(names: list[str], blocks: int = 12) -> Clip:
    """Return a CLIP of ViT-B/16's shapes with random weights; every word is a token."""
    known = ["a", "photo", "of", ".", START, END, *sorted({w for n in names for w in n.split()})]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    core.add_special_tokens([START, END])
    core.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(t, core.token_to_id(t)) for t in (START, END)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=START, eos_token=END, pad_token=END
    )
    shapes = CLIPConfig(
        text_config={
            "hidden_size": 512,
            "num_hidden_layers": blocks,
            "eos_token_id": core.token_to_id(END),
        },
        vision_config={"patch_size": 16, "num_hidden_layers": blocks},
        projection_dim=512,
    )
    torch.manual_seed(0)
    model = CLIPModel(shapes).eval().requires_grad_(False)
    return Clip("ViT-B/16", model, tokenizer, Preprocessing(224, 224))


def without_weights(names: list[str], blocks: int = 12) -> Clip:
    """Return what ``vit_b_16`` does, on the meta device: its tokenizer and its shapes alone."""
    with torch.device("meta"):
        return vit_b_16(names, blocks)

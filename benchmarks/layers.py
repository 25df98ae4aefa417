"""Layers that are computed another way than by peft and transformers, beside theirs.

    python -m benchmarks.layers

Forward and backward of LoRA on a linear layer (rank 2) and of CLIP's activation, and drawing a
dropout mask, at the sizes of ViT-B/16's towers for 32 and 8 images and 100 classes. One thread,
milliseconds of the processor, the least of some; ``products`` is what the frozen weight's products
alone take.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from fl2ora.clip_tuning.dropout import keep_mask
from fl2ora.clip_tuning.low_rank import compute_faster
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.clip_tuning.quick_gelu import QuickGELU

SIZES = ((32 * 197, 768), (8 * 197, 768), (600, 512))  # tokens and width
REPEATS = 9


def main() -> None:
    """Print the table."""
    use_processor(1)
    print("| layer | tokens | width | theirs ms | ours ms | ours / theirs | products ms |")
    print("|---|" + "---:|" * 6)
    for tokens, width in SIZES:
        rows(tokens, width)


def rows(tokens: int, width: int) -> None:
    """Print the lines of one size."""
    states = torch.randn(tokens, width)
    weight, found = torch.randn(width, width), torch.empty(tokens, width)
    products = 2 * least(lambda: torch.mm(states, weight, out=found))
    for share in (0.0, 0.25):
        layer = lora(width, share)
        theirs = least(passes(layer, states))
        compute_faster(layer)
        ours = least(passes(layer, states))
        row(f"LoRA, dropout {share}", tokens, width, theirs, ours, f"{products:.1f}")
    theirs = least(lambda: torch.empty(tokens, width).bernoulli_(0.75))
    ours = least(lambda: keep_mask(states.shape, 0.25))
    row("a mask of dropout", tokens, width, theirs, ours)
    wide = torch.randn(tokens, 4 * width)
    theirs, ours = (least(passes(way, wide)) for way in (QuickGELUActivation(), QuickGELU()))
    row("activation", tokens, 4 * width, theirs, ours)


def lora(width: int, dropout: float) -> nn.Module:
    """Return a tuned layer, whose second factor is not zero."""
    config = LoraConfig(
        r=2, lora_alpha=1, use_rslora=True, lora_dropout=dropout, target_modules=["0"]
    )
    layer: nn.Module = get_peft_model(nn.Sequential(nn.Linear(width, width)), config).train()
    for name, parameter in layer.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return layer


def passes(layer: nn.Module, values: Tensor) -> Callable[[], object]:
    """Return a forward and a backward pass, to the input and to what is tuned."""
    given = [values.requires_grad_(), *(p for p in layer.parameters() if p.requires_grad)]
    gradient = torch.randn_like(layer(values))
    return lambda: torch.autograd.grad(layer(values), given, gradient)


def least(work: Callable[[], object]) -> float:
    """Return the processor's milliseconds of some work, the least of some after the first."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * min(times[1:])


def row(
    name: str, tokens: int, width: int, theirs: float, ours: float, products: str = "-"
) -> None:
    """Print a line."""
    print(
        f"| {name} | {tokens:,} | {width:,} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | "
        f"{products} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

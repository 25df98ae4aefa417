"""Spec strings of all our tuning methods, for tests of several files."""

from __future__ import annotations

# Every file with its defaults and with what changes its forward.
SPECS = {
    "bitfit": ["bitfit", "bitfit(biases='fl2ora')", "bitfit(towers='vision')"],
    "clip_adapter": ["clip_adapter", "clip_adapter(ratio=0.5, reduction=1)"],
    "cocoop": ["cocoop", "cocoop(length=2, reduction=4)"],
    "fedotp": ["fedotp", "fedotp(length=4, mass=0.6, epsilon=0.05, init='template')"],
    "fedpgp": ["fedpgp", "fedpgp(length=4, rank=2, init='template')"],
    "fedtpg": ["fedtpg", "fedtpg(length=2, heads=1)"],
    "full": ["full", "full(towers='text')", "full(towers='vision')"],
    "ivlp": ["ivlp", "ivlp(depth=1)", "ivlp(length=14)"],
    "kgcoop": ["kgcoop", "kgcoop(init='an image of')"],
    "layer_norm": ["layer_norm", "layer_norm(towers='text')", "layer_norm(towers='vision')"],
    "linear_probe": ["linear_probe", "linear_probe(init='zero', bias=False)"],
    "logit_scale": ["logit_scale", "logit_scale('lora(rank=1)')", "logit_scale('clip_adapter')"],
    "lora": [
        "lora",
        "lora(dora=True)",
        "lora(targets='fc1,fc2', blocks='1', towers='text')",
        "lora(blocks='half-up', towers='vision', rslora=False)",
    ],
    "lora_residual": ["lora_residual", "lora_residual(residual_rank=3, towers='vision')"],
    "maple": ["maple", "maple(depth=1, length=1)"],
    "prograd": ["prograd", "prograd(length=4)"],
    "coop": [
        "coop",
        "coop(length=4, init='template')",
        "coop(length=4, init='a blurry photo of the', position='middle')",
        "coop(length=4, position='front', class_specific=True)",
    ],
    "prompt": ["prompt"],
    "promptfolio": ["promptfolio", "promptfolio(length=4, share=0.7, init='template')"],
    "prompt_src": ["prompt_src", "prompt_src(depth=1)"],
    "task_res": ["task_res", "task_res(scale=1.0)"],
    "tcp": ["tcp", "tcp(block=1, length=2)"],
    "tip_adapter": ["tip_adapter", "tip_adapter(shots=2, alpha=3.0, beta=5.5)"],
    "tip_adapter_f": ["tip_adapter_f", "tip_adapter_f(shots=2, alpha=3.0, beta=5.5)"],
    "vpt": ["vpt", "vpt(depth=1, length=2)"],
    "zero_shot": ["zero_shot"],
}  # fmt: skip
ALL = [spec for specs in SPECS.values() for spec in specs]

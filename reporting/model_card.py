"""``adapter/README.md``: what the adapter is, how well it does, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import printable
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.reporting.sources import (
    CLIENTS_TEST,
    SERVER_TEST,
    central_sources,
    own_sources,
    title_of,
)
from fl2ora.reporting.tables import metrics_table, rows_with_calibrated, shown_metrics
from fl2ora.reporting.whole_files import write_whole

ADAPTER = "adapter"
_PEFT = "adapter_config.json"
_CARD = "README.md"
_HEAD = (
    "model", "method", "dataset", "partition", "strategy", "loss", "num-rounds", "seed",
)  # fmt: skip
_LOAD_PEFT = """\
from peft import PeftModel
from transformers import AutoModel

clip = AutoModel.from_pretrained({model})
tuned = PeftModel.from_pretrained(clip, "adapter")
"""
_LOAD_PEFT_EMBEDDED = """\
from peft import PeftModel

from fl2ora.clip_tuning.clip import load_clip

clip = load_clip("embedded").model  # a CLIPModel of transformers
tuned = PeftModel.from_pretrained(clip, "adapter")
"""
_LOAD_OURS = """\
from pathlib import Path

from fl2ora import TuningMethod
from fl2ora.experiment.plugins import load

adapter = load({method}, TuningMethod).load(Path("adapter"))  # tensors by name
"""


def write_model_card(folder: Path, config: RunConfig) -> Path | None:
    """Write the card of a run's adapter from what the run directory holds.

    Args:
        folder: the run directory.
        config: of the run.

    Returns:
        The path; None where the run has no adapter.
    """
    adapter = folder / ADAPTER
    if not adapter.is_dir():
        return None
    flat = config.flat()
    is_peft = (adapter / _PEFT).exists()
    lines = [
        *_front_matter(config, is_peft),
        f"# {printable(config.method)} on {printable(config.model)}",
        "",
        "An adapter of CLIP, trained over federated clients with "
        "[Flower](https://flower.ai) by fl2ora.",
        "",
        *(f"- {key}: `{flat[key]}`" for key in _HEAD),
        *_metrics(folder),
        "",
        "## Loading it",
        "",
        "```python",
        _loading(config, is_peft) + "```",
        "",
        f"Written by run `{folder.name}`; code {code_fingerprint()}, "
        + ", ".join(f"{name} {version}" for name, version in library_versions().items())
        + ". All settings: `run.json` of the run.",
        "",
    ]
    write_whole(adapter / _CARD, "\n".join(lines))
    return adapter / _CARD


def _front_matter(config: RunConfig, is_peft: bool) -> list[str]:
    """Return the metadata that Hugging Face's hub reads."""
    lines = ["---", f"library_name: {'peft' if is_peft else 'fl2ora'}"]
    if config.model != "embedded":
        lines.append(f"base_model: {json.dumps(config.model)}")
    tags = ["clip", "federated-learning", "calibration", *(["lora"] if is_peft else [])]
    return [*lines, "tags:", *(f"  - {tag}" for tag in tags), "---", ""]


def _metrics(folder: Path) -> list[str]:
    """Return a table of each part: before, after, and calibrated; else of the clients."""
    table = metrics_table(folder)
    lines: list[str] = []
    sources = central_sources(table["source"]) or [CLIENTS_TEST]
    for source in [*sources, *own_sources(table["source"])]:
        rows = rows_with_calibrated(table, source)
        measured = [row for row in rows if row[0] != "calibrated"]
        ends = (*measured[:1], *measured[-1:])
        shown = [row for row in rows if row in ends or row not in measured]
        if shown:
            head = ["after round", *(metric.title for metric in shown_metrics(table))]
            cells = [head, ["---:"] * len(head), *shown]
            lines += ["", f"## {_title(source)}", ""]
            lines += [f"| {' | '.join(row)} |" for row in cells]
    return lines


def _title(source: str) -> str:
    return "Central held-out set" if source == SERVER_TEST else printable(title_of(source))


def _loading(config: RunConfig, is_peft: bool) -> str:
    if not is_peft:
        return _LOAD_OURS.format(method=repr(config.method))
    template = _LOAD_PEFT_EMBEDDED if config.model == "embedded" else _LOAD_PEFT
    return template.format(model=json.dumps(config.model))

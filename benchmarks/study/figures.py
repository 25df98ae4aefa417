"""Plots of the study's results, for docs/study.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.study.analysis import interval
from fl2ora.reporting.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PAGE,
    PURPLE,
    VERMILLION,
    new_figure,
    save,
)

STYLES = {
    "coop": ("prompts", BLUE, "o"),
    "coop(class_specific=True)": ("prompts of each class", PURPLE, "s"),
    "kgcoop": ("KgCoOp", GREEN, "^"),
    "lora": ("LoRA", VERMILLION, "D"),
}


def draw_methods(table: pd.DataFrame, sweep: str, path: Path) -> None:
    """Draw accuracy against smooth ECE for every condition of a sweep of methods."""
    runs = table[table["sweep"] == sweep]
    conditions = list(runs.groupby(["shots", "skew"], sort=False))
    with new_figure(PAGE, 2.4) as figure:
        axes = figure.subplots(1, max(len(conditions), 1), sharex=True, sharey=True, squeeze=False)
        for plot, ((shots, skew), group) in zip(axes[0], conditions, strict=False):
            images = "all images" if shots == "all" else f"{shots} a class"
            plot.set_title(f"{images}, Dirichlet {skew}")
            zero = 100 * group[["zero_accuracy", "zero_smooth_ece"]].mean()
            plot.plot(*zero, "*", color=BLACK, label="zero-shot", zorder=5)
            for method, (label, colour, marker) in STYLES.items():
                own = 100 * group[group["method"] == method][["accuracy", "smooth_ece"]]
                if len(own):
                    plot.plot(*own.T.to_numpy(), marker, color=colour, ms=2, alpha=0.5, mew=0)
                    plot.plot(*own.mean(), marker, color=colour, ms=5, label=label)
            plot.set_xlabel("accuracy [%]")
            plot.grid(True)
        axes[0][0].set_ylabel("smooth ECE [%]")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        _save_png(figure, path)


def draw_rates(table: pd.DataFrame, path: Path) -> None:
    """Draw the change of accuracy and smooth ECE against the learning rate, with intervals."""
    runs = table[table["sweep"] == "rates"]
    with new_figure(PAGE, 2.2) as figure:
        axes = figure.subplots(1, 2)
        named = (("accuracy", "accuracy"), ("smooth_ece", "smooth ECE"))
        for plot, (metric, label) in zip(axes, named, strict=True):
            for method, group in runs.groupby("method", sort=False):
                name, colour, marker = STYLES[str(method)]
                change = 100 * (group[metric] - group[f"zero_{metric}"])
                found = [(r, *interval(list(c))) for r, c in change.groupby(group["learning-rate"])]
                rates, means, lows, highs = zip(*found, strict=True)
                below = [mean - low for mean, low in zip(means, lows, strict=True)]
                above = [high - mean for mean, high in zip(means, highs, strict=True)]
                plot.errorbar(
                    rates, means, [below, above], fmt=f"-{marker}", color=colour, label=name, ms=4
                )
            plot.axhline(0, color=GREY, lw=0.6)
            plot.set_xscale("log")
            values = sorted(set(runs["learning-rate"]))
            plot.set_xticks(values, [f"{value:g}" for value in values])
            plot.minorticks_off()
            plot.set_xlabel("learning rate")
            plot.set_ylabel(f"change of {label} [points]")
        axes[0].legend(loc="best")
        _save_png(figure, path)


def _save_png(figure: Figure, path: Path) -> None:
    """Write the one of both formats that pages show."""
    for written in save(figure, path):
        if written.suffix != ".png":
            written.unlink()

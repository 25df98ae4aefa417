"""The one list of metrics: what each is called, computed from, better at, and shown as.

Tables, intervals, plots, progress, the worst client and the documentation read it. A metric is
added here and nowhere else. ``python -m fl2ora.calibration.metrics.table`` prints the table of the
documentation.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from fl2ora.calibration.metrics import adaptive, binned, classwise, ks, proper, selective, smooth
from fl2ora.calibration.metrics.metric import Metric
from fl2ora.calibration.stats_spec import StatsSpec

__all__ = ["DEFAULT", "METRICS", "Metric", "chosen_metrics", "markdown", "spec_for"]

DEFAULT_GROUP = "default"

METRICS: tuple[Metric, ...] = (
    Metric(
        "accuracy", binned.accuracy_of, "higher", "fraction", "accuracy",
        "share of right predictions",
        default=True, shown=True, headline=True,
    ),
    Metric(
        "confidence", binned.confidence_of, None, "fraction", "confidence",
        "mean probability of the predicted class; minus accuracy it is the net overconfidence",
        default=True,
    ),
    Metric(
        "ece", binned.ece_of, "lower", "fraction", "ECE",
        "mean gap between confidence and accuracy over equal-width bins, by their share of the "
        "examples (Naeini et al. 2015)",
        default=True, shown=True, interval_shown=True, headline=True, gap=True,
    ),
    Metric(
        "mce", binned.mce_of, "lower", "fraction", "MCE (images)",
        "largest gap of a bin (Naeini et al. 2015); one thin bin decides it",
        default=True, shown=True, gap=True,
    ),
    Metric(
        "mce_count", binned.mce_count_of, None, "number", "images in the bin of MCE",
        "examples in that bin: with a few, MCE says nothing about the model",
        default=True, resampled=False, beside="mce",
    ),
    Metric(
        "mce_equal_mass", lambda stats: adaptive.mce_equal_mass_of(stats).value,
        "lower", "fraction", "MCE, equal mass",
        "largest gap of bins that hold equally many examples (bins of Nguyen & O'Connor 2015)",
        default=True, shown=True, needs="fine", gap=True,
        of_scores=lambda s, bins: adaptive.equal_mass_maximum(s.confidence, s.correct, bins),
    ),
    Metric(
        "mce_weighted", binned.mce_weighted_of, "lower", "fraction", "MCE, weighted",
        "largest gap times the bin's share of the examples, never above ECE; called MCE in some "
        "code",
        default=True, gap=True,
    ),
    Metric(
        "ace", lambda stats: adaptive.adaptive_ece_of(stats).value,
        "lower", "fraction", "ACE",
        "ECE over bins that hold equally many examples (Nguyen & O'Connor 2015)",
        default=True, needs="fine", gap=True,
        of_scores=lambda s, bins: adaptive.equal_mass_error(s.confidence, s.correct, bins),
    ),
    Metric(
        "nll", proper.nll_of, "lower", "nats", "NLL",
        "mean negative log-likelihood of the label; a proper score",
        default=True, shown=True,
    ),
    Metric(
        "brier", proper.brier_of, "lower", "number", "Brier",
        "mean squared distance of the probabilities from the label, in [0, 2]; a proper score "
        "(Brier 1950)",
        default=True,
    ),
    Metric(
        "over_confidence", binned.over_confidence_of, "lower", "fraction", "ECE, overconfident",
        "the part of ECE from bins whose confidence is too high",
        default=True, gap=True,
    ),
    Metric(
        "under_confidence", binned.under_confidence_of, "lower", "fraction", "ECE, underconfident",
        "the part of ECE from bins whose confidence is too low",
        default=True, gap=True,
    ),
    Metric(
        "rmsce", binned.rmsce_of, "lower", "fraction", "RMSCE",
        "root mean square of the bins' gaps, by their share of the examples "
        "(Hendrycks et al. 2019)",
        shown=True, gap=True,
    ),
    Metric(
        "debiased_ce", binned.debiased_ce_of, "lower", "fraction", "debiased CE",
        "RMSCE without what sampling noise adds to its square; 0 where noise explains all "
        "(Kumar et al. 2019)",
        shown=True,
    ),
    Metric(
        "average_ce", binned.average_ce_of, "lower", "fraction", "average CE",
        "mean gap of the bins that hold an example, each counting once (Neumann et al. 2018)",
        shown=True, gap=True,
    ),
    Metric(
        "overconfidence_error", binned.overconfidence_error_of,
        "lower", "fraction", "overconfidence error",
        "overconfident gaps weighted with the confidence (Thulasidasan et al. 2019)",
        shown=True,
    ),
    Metric(
        "brier_top1", proper.brier_top1_of, "lower", "number", "Brier, top-1",
        "mean squared distance of the confidence from being right, in [0, 1] (Brier 1950)",
        shown=True,
    ),
    Metric(
        "classwise_ece", classwise.classwise_ece_of, "lower", "fraction", "class-wise ECE",
        "ECE of each class's probability, mean over the classes (Kull et al. 2019)",
        shown=True, needs="class", resampled=False,
        by_class=classwise.classwise_ece_by_class_of,
    ),
    Metric(
        "top_label_ece", classwise.top_label_ece_of, "lower", "fraction", "top-label ECE",
        "ECE among the examples predicted as one class, over all classes (Gupta & Ramdas 2022)",
        shown=True, needs="class", resampled=False,
        by_class=classwise.top_label_ece_by_class_of,
    ),
    Metric(
        "smooth_ece", lambda stats: smooth.smooth_ece_of(stats).value,
        "lower", "fraction", "smooth ECE",
        "calibration error after smoothing with a kernel as wide as the error itself; no bins "
        "(Blasiok & Nakkiran 2023)",
        shown=True, needs="fine", resampled=False,
        of_scores=lambda s, _: smooth.smooth_ece_of_scores(s),
    ),
    Metric(
        "ks_error", lambda stats: ks.ks_error_of(stats).value, "lower", "fraction", "KS error",
        "largest gap between cumulative confidence and cumulative accuracy; no bins "
        "(Gupta et al. 2021)",
        shown=True, needs="fine", gap=True,
        of_scores=lambda s, _: ks.ks_error_of_scores(s),
    ),
    Metric(
        "auroc", lambda stats: selective.auroc_of(stats).value, "higher", "number", "AUROC",
        "chance that a right prediction is more confident than a wrong one, ties counted half; "
        "1/2 is chance (Hendrycks & Gimpel 2017)",
        shown=True, needs="fine",
        of_scores=lambda s, _: selective.auroc_of_scores(s),
    ),
    Metric(
        "aurc", lambda stats: selective.aurc_of(stats).value, "lower", "number", "AURC",
        "error rate of the most confident examples, mean over how many are kept "
        "(Geifman et al. 2019)",
        shown=True, needs="fine",
        of_scores=lambda s, _: selective.aurc_of_scores(s),
    ),
    Metric(
        "e_aurc", lambda stats: selective.e_aurc_of(stats).value, "lower", "number", "E-AURC",
        "AURC minus that of a perfect ranking with as many errors (Geifman et al. 2019)",
        shown=True, needs="fine",
        of_scores=lambda s, _: selective.e_aurc_of_scores(s),
    ),
    Metric(
        "coverage_at_5_risk", lambda stats: selective.coverage_at_risk_of(stats).value,
        "higher", "fraction", "coverage at 5 % risk",
        "largest share of the examples, most confident first, whose error rate is at most 5 % "
        "(Geifman & El-Yaniv 2017)",
        shown=True, needs="fine",
        of_scores=lambda s, _: selective.coverage_of_scores(s),
    ),
)  # fmt: skip

DEFAULT: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.default)


def chosen_metrics(text: str) -> tuple[Metric, ...]:
    """Return the metrics a run asks for, in the order of ``METRICS``.

    Args:
        text: names joined by ``+``; ``default`` stands for the default ones. Hyphens read as
            underscores. What stands beside a metric comes with it.

    Raises:
        ValueError: a name is unknown; the message lists the valid ones and the nearest.

    Example:
        >>> [metric.name for metric in chosen_metrics("ece + mce + auroc")]
        ['ece', 'mce', 'mce_count', 'auroc']
    """
    valid = [DEFAULT_GROUP, *(metric.name for metric in METRICS)]
    names = {term.strip().replace("-", "_") for term in text.split("+")}
    if unknown := sorted(names - set(valid)):
        close = difflib.get_close_matches(unknown[0], valid, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"expected names of metrics joined by '+', found {unknown[0]!r} in {text!r}"
            f"{hint} (valid: {', '.join(valid)})"
        )
    return tuple(
        metric
        for metric in METRICS
        if {metric.name, metric.beside} & names or (metric.default and DEFAULT_GROUP in names)
    )


def spec_for(metrics: Iterable[Metric], num_bins: int = 15, num_classes: int = 0) -> StatsSpec:
    """Return the sizes of the sums that ``metrics`` need, and no more.

    Args:
        metrics: of the run.
        num_bins: equal-width confidence bins.
        num_classes: K; it matters where a metric needs the sums of each class.

    Example:
        >>> spec_for(chosen_metrics("ece + nll")).num_floats
        80
        >>> spec_for(chosen_metrics("classwise_ece"), num_classes=10).num_floats
        980
    """
    needs = {metric.needs for metric in metrics}
    return StatsSpec(
        num_bins=num_bins,
        num_classes=num_classes if "class" in needs else 0,
        fine_bins=StatsSpec.fine_bins if "fine" in needs else 0,
        classwise="class" in needs,
    )


def markdown(metrics: Sequence[Metric] = METRICS) -> str:
    """Return the documentation's table of metrics."""
    sums = {"bins": "exact", "fine": "approximate", "class": "exact, 6 K M sums more"}
    arrows = {"lower": "lower", "higher": "higher", None: "-"}
    lines = ["| metric | title | unit | better | from sums | what it is |", "|" + " --- |" * 6]
    for metric in metrics:
        name = f"**`{metric.name}`**" if metric.default else f"`{metric.name}`"
        cells = (name, metric.title, metric.unit, arrows[metric.better], sums[metric.needs])
        lines.append(f"| {' | '.join(cells)} | {metric.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())

"""``summary.md``: the settings, the tables, the replies that were lost, the figures."""

from __future__ import annotations

from pathlib import Path

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.fingerprint import code_fingerprint
from fl2ora.reporting.events import JsonLines
from fl2ora.reporting.run_summary import write_summary

METRICS = {"accuracy": 0.5, "ece": 0.25, "mce": 1.0, "nll": 2.0}


def _summary(folder: Path, **settings: str) -> str:
    path = write_summary(folder, RunConfig.from_flat(settings))
    assert path == folder / "summary.md"
    return path.read_text(encoding="utf-8")


def test_settings_tables_and_versions(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.metrics(0, "server-test", METRICS)
    tracker.metrics(0, "clients-test", {**METRICS, "accuracy": 0.375})
    tracker.metrics(1, "server-test", {**METRICS, "accuracy": 0.75})
    text = _summary(tmp_path, strategy="fedprox(mu=0.1)")
    assert text.startswith(f"# Run {tmp_path.name}\n")
    assert "- strategy: `fedprox(mu=0.1)`\n" in text
    assert "- dataset: `shapes(styles='held-back')`\n" in text
    assert (
        "## Central held-out set (`server-test`)\n\n"
        "| round | accuracy | ECE | MCE (images) | NLL |\n"
        "| ---: | ---: | ---: | ---: | ---: |\n"
        "| zero-shot | 50.00 % | 25.00 % | 100.00 % | 2.0000 |\n"
        "| 1 | 75.00 % | 25.00 % | 100.00 % | 2.0000 |\n"
    ) in text
    pooled = text.index("(`clients-test`)")
    assert text.index("(`server-test`)") < pooled
    assert "37.50 %" in text[pooled:]
    assert f"Code {code_fingerprint()}; python 3." in text
    assert "not used" not in text
    assert "clients-test-mean" not in text
    assert text.endswith("\n")


def test_summary_explains_every_metric_source(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    sources = ("clients-test-worst", "clients-test-sd", "clients-test-mean", "clients-test")
    for source in sources:
        tracker.metrics(1, source, METRICS)
    text = _summary(tmp_path)
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert [head.partition("(`")[2] for head in heads] == [
        "clients-test`)", "clients-test-mean`)", "clients-test-sd`)", "clients-test-worst`)",
    ]  # fmt: skip
    assert "sums added" in heads[0]
    assert "Plain mean" in heads[1]
    assert "Standard deviation" in heads[2]
    assert "Worst" in heads[3]


def test_replies_that_were_not_used_are_listed(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.log("drop", round=2, client="site-b", reason="update: a has 3 of 4 values not finite")
    tracker.log("adapter-kept", round=2, usable=1, expected=2)
    tracker.log("client", round=3, client="site-a")
    text = _summary(tmp_path)
    assert (
        "## Replies that were not used\n\n"
        "- round 2, client site-b: update: a has 3 of 4 values not finite\n"
        "- round 2: adapter kept, 1 usable replies, 2 needed\n"
    ) in text
    assert "site-a" not in text


def test_plots_that_were_drawn_are_shown(tmp_path: Path) -> None:
    for name in ("rounds.png", "reliability.png", "reliability.svg", "other.png"):
        (tmp_path / name).touch()
    text = _summary(tmp_path)
    assert "\n![reliability](reliability.png)\n\n![rounds](rounds.png)\n" in text
    assert "svg" not in text
    assert "other" not in text


def test_a_run_that_failed_before_any_metric_has_a_summary(tmp_path: Path) -> None:
    assert "## " not in _summary(tmp_path)


def test_the_calibrated_row_stands_below_the_rounds(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    for source in ("server-test", "clients-test"):
        tracker.metrics(1, source, METRICS)
        tracker.metrics(1, f"{source}-calibrated", {**METRICS, "ece": 0.125})
    text = _summary(tmp_path)
    rows = "| 1 | 50.00 % | 25.00 % | 100.00 % | 2.0000 |\n" + (
        "| calibrated | 50.00 % | 12.50 % | 100.00 % | 2.0000 |\n"
    )
    assert text.count(rows) == 2


def test_clients_that_went_and_came_are_told_with_what_it_means_for_curves(tmp_path: Path) -> None:
    tracker = JsonLines(tmp_path)
    tracker.metrics(0, "clients-test", METRICS)
    tracker.log("measured-clients", round=0, clients=["a", "b"])
    tracker.log("client-lost", round=2, client="b")
    tracker.log("measured-clients", round=2, clients=["a"])
    tracker.log("client-changed", round=4, client="b", counts={"num_train": [5, 7]})
    tracker.log("client-back", round=4, client="b")
    tracker.log("measured-clients", round=4, clients=["a", "b"])
    text = _summary(tmp_path)
    assert "- clients measured from round 2 on: without b, so metrics" in text
    assert "- clients measured from round 4 on: with b, so metrics" in text
    told = text[text.index("## Clients that went or came") :]
    assert (
        "- round 2, client b: its node went offline\n"
        "- round 4, client b: its data changed: num_train 5 -> 7\n"
        "- round 4, client b: is back\n"
    ) in told

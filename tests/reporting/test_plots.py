import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.reporting.client_panels import draw_clients, worst_of
from fl2ora.reporting.plot_style import fitted, new_figure, percent
from fl2ora.reporting.plots import (
    clients_figure,
    reliability_figure,
    rounds_figure,
    smooth_figure,
)
from fl2ora.reporting.reliability_panels import draw_reliability, draw_smooth
from fl2ora.reporting.round_curves import draw_rounds


def stats_of(confidence, correct, **spec):
    """Return statistics of top-1 predictions among 16 classes."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct)
    probabilities = np.repeat((1 - confidence)[:, None] / 15, 16, axis=1)
    probabilities[:, 0] = confidence
    return CalibrationStats.from_probabilities(
        probabilities, np.where(correct, 0, 1), StatsSpec(**spec)
    )


def drawn_stats(seed, n=400, shift=0.0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, n)
    return stats_of(confidence, rng.random(n) < confidence - shift)


QUARTER = stats_of([0.75, 0.75, 0.75, 0.75], [1, 0, 1, 0])  # accuracy 50 %, ECE and MCE 25 %
ROWS = [
    {"round": server_round, "source": source, "accuracy": 0.4 + 0.02 * server_round, "ece": 0.1}
    for server_round in range(4)
    for source in ("server-test", "clients-test", "clients-test-mean", "clients-test-sd")
]


def texts(draw, *arguments):
    with new_figure(3, 3) as figure:
        draw(figure, *arguments)
        figure.draw_without_rendering()
        return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def check_files(paths, path):
    png, svg = paths
    assert (png, svg) == (path.with_suffix(".png"), path.with_suffix(".svg"))
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert b"<svg" in svg.read_bytes()[:1000]
    assert min(png.stat().st_size, svg.stat().st_size) > 1500


PLOTS = {
    "reliability": lambda path: reliability_figure(
        {"zero-shot": drawn_stats(0, shift=0.2), "round 4": drawn_stats(1)}, path, "a title"
    ),
    "smooth": lambda path: smooth_figure(
        {"zero-shot": drawn_stats(0, shift=0.2), "round 4": drawn_stats(1)}, path
    ),
    "clients": lambda path: clients_figure({f"c{i}": drawn_stats(i, 50) for i in range(3)}, path),
    "rounds": lambda path: rounds_figure(ROWS, path),
}


@pytest.mark.parametrize("name", PLOTS)
def test_equal_data_give_equal_files(name, tmp_path):
    first = PLOTS[name](tmp_path / "one")
    second = PLOTS[name](tmp_path / "two")
    check_files(first, tmp_path / "one")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_figure_of_five_panels_is_written(tmp_path):
    paths = reliability_figure({f"panel {i}": QUARTER for i in range(5)}, tmp_path / "five.png")
    check_files(paths, tmp_path / "five")


def test_a_dot_in_the_name_is_no_suffix(tmp_path):
    paths = rounds_figure(ROWS, tmp_path / "fedprox(mu=0.1)")
    assert [path.name for path in paths] == ["fedprox(mu=0.1).png", "fedprox(mu=0.1).svg"]


def test_reliability_names_panels_and_metrics():
    found = texts(draw_reliability, {"zero-shot": QUARTER, "round 4": drawn_stats(1)}, "My run")
    assert "My run" in found
    assert {"zero-shot", "round 4"} <= set(found)
    assert "accuracy 50.0 %, N 4\nECE 25.0 %, MCE 25.0 % (4)" in found
    assert {"accuracy (%)", "examples", "95 % bootstrap interval", "calibrated"} <= set(found)


def test_smooth_names_panels_and_metrics():
    found = texts(draw_smooth, {"round 4": QUARTER})
    assert "round 4" in found
    (values,) = [text for text in found if "smooth ECE" in text]
    assert values.startswith("accuracy 50.0 %, N 4\nsmooth ECE ")
    assert values.endswith("σ 0.05")


def heights(stats):
    """Return the bars' lower ends and heights in the first panel, by face colour."""
    with new_figure(3, 3) as figure:
        draw_reliability(figure, {"panel": stats})
        bars = figure.axes[0].patches
        return [(bar.get_x(), bar.get_y(), bar.get_height(), bar.get_hatch()) for bar in bars]


def test_bars_and_gaps_are_accuracy_and_confidence():
    confidence, correct = [0.75, 0.75, 0.75, 0.75, 0.3, 0.3], [1, 0, 1, 0, 1, 0]
    bars = heights(stats_of(confidence, correct, num_bins=5))
    expected = [  # left edge, bottom, height
        (0.2, 0.0, 0.5, None),
        (0.6, 0.0, 0.5, None),
        (0.6, 0.5, 0.25, "/////"),
        (0.2, 0.5, -0.2, "\\\\\\\\\\"),
    ]
    assert len(bars) == 4
    for found, known in zip(bars, expected, strict=True):
        assert found[:3] == pytest.approx(known[:3])
        assert found[3] == known[3]


def test_counts_strip_shows_the_fullest_bin():
    with new_figure(3, 3) as figure:
        draw_reliability(figure, {"panel": stats_of([0.5] * 3 + [0.9] * 1200, [1] * 1203)})
        strip = figure.axes[1]
        assert [label.get_text() for label in strip.get_yticklabels()] == ["0", "1,200"]
        assert sum(bar.get_height() for bar in strip.patches) == 1203


def test_clients_stand_worst_first_and_the_rest_is_counted():
    clients = {
        "good": stats_of([0.5, 0.5], [1, 0]),
        "bad": stats_of([0.9, 0.9], [0, 0]),
        "middle": QUARTER,
        "empty": CalibrationStats.zero(),
    }
    found = texts(draw_clients, worst_of(clients, 2))
    assert [text for text in found if text in clients] == ["bad", "middle"]
    assert "ECE 90.0 %, N 2" in found
    assert any("2 of 3 clients, worst ECE first; 1 more without examples" in t for t in found)


def test_a_client_name_is_cut_to_its_panel():
    clients = {"hospital-of-the-north-" * 9: QUARTER, "$x$ \n y": QUARTER}
    found = texts(draw_clients, worst_of(clients, 20))
    assert any(text.startswith("hospital-of") and text.endswith("…") for text in found)
    assert "$x$ y" in found


def lines_of(rows):
    with new_figure(3, 3) as figure:
        draw_rounds(figure, pd.DataFrame(rows))
        figure.draw_without_rendering()
        return [
            {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
            for axes in figure.axes
        ], [axes.collections for axes in figure.axes]


def test_rounds_draws_every_source():
    (accuracy, ece), bands = lines_of(ROWS)
    names = ["server's test set", "clients' images, pooled", "mean of clients ± sd"]
    assert list(accuracy) == list(ece) == names
    expected = np.array([[0, 0.4], [1, 0.42], [2, 0.44], [3, 0.46]])
    assert accuracy[names[0]] == pytest.approx(expected)
    drawn = [band for band in bands[1] if len(band.get_paths())]
    assert len(drawn) == 1  # mean 0.1 and sd 0.1
    assert drawn[0].get_paths()[0].get_extents().ymin == pytest.approx(0.0)
    assert drawn[0].get_paths()[0].get_extents().ymax == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([100, 100, 100], ""),
        ([100, 20, 100], "; between the first and the last: 0.2 of the images"),
    ],
)
def test_rounds_say_which_are_of_fewer_images(images, said):
    rows = [
        {"round": n, "source": "server-test", "accuracy": 0.5, "ece": 0.1, "num_examples": count}
        for n, count in enumerate(images)
    ]
    with new_figure(4, 4) as figure:
        draw_rounds(figure, pd.DataFrame(rows))
        assert figure.axes[1].get_xlabel() == f"round (0: zero-shot{said})"


def test_rounds_with_gaps_repeats_and_other_sources():
    rows = [
        {"round": 2, "source": "server-test", "accuracy": 0.5, "ece": None},
        {"round": 0, "source": "server-test", "accuracy": 0.3, "ece": 0.2},
        {"round": 2, "source": "server-test", "accuracy": 0.6, "ece": float("nan")},
        {"round": 2, "source": "elsewhere", "accuracy": 0.9, "ece": 0.9},
    ]
    (accuracy, ece), _ = lines_of(rows)
    assert accuracy["server's test set"].tolist() == [[0, 0.3], [2, 0.6]]
    assert np.isnan(ece["server's test set"][1, 1])
    assert list(accuracy) == ["server's test set"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        pd.DataFrame(columns=["round", "source"]),
        [{"round": 0, "source": "server-test", "accuracy": None, "ece": None}],
        [{"round": 1, "source": "elsewhere", "accuracy": 0.5}],
    ],
)
def test_rounds_figure_without_data_shows_a_note(rows, tmp_path):
    check_files(rounds_figure(rows, tmp_path / "rounds"), tmp_path / "rounds")
    assert texts(draw_rounds, pd.DataFrame(rows)).count("no data") == 2


@pytest.mark.parametrize("count", [1, 200])
def test_rounds_few_and_many(count, tmp_path):
    rows = [{"round": i, "source": "server-test", "accuracy": 0.5, "ece": 0} for i in range(count)]
    check_files(rounds_figure(rows, tmp_path / "rounds"), tmp_path / "rounds")


EMPTY = CalibrationStats.zero(StatsSpec(num_bins=1))
COARSE = stats_of([0.7, 0.9], [1, 0], fine_bins=0, num_bins=1)


@pytest.mark.parametrize("panels", [{}, {"nobody": EMPTY}, {"one": EMPTY, "two": COARSE}])
def test_empty_panels_do_not_fail(panels, tmp_path):
    for draw in (reliability_figure, smooth_figure, clients_figure):
        paths = draw(panels, tmp_path / "empty")
        check_files(paths, tmp_path / "empty")
    assert "no data" in texts(draw_reliability, panels)
    assert "no data" in texts(draw_smooth, panels)


def test_smooth_figure_without_fine_histogram_shows_a_note():
    assert "no fine histogram" in texts(draw_smooth, {"coarse": COARSE})


def test_clients_limit_is_checked(tmp_path):
    with pytest.raises(ValueError, match="limit must be at least 1, found 0"):
        clients_figure({}, tmp_path / "clients", limit=0)


def test_percentages_and_wrapped_titles():
    assert percent(0.12345) == "12.3 %"
    assert percent(float("nan")) == "-"
    assert fitted("one two three", 0.66) == "one two t…"
    assert fitted("one two three", 0.66, lines=2) == "one two\nthree"
    assert fitted("x" * 40, 0.66, lines=2) == "x" * 10 + "\n" + "x" * 9 + "…"


def test_pyplot_is_not_loaded():
    code = "import sys, fl2ora.reporting.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_held_out_parts_are_lines_of_their_own():
    rows = [
        {"round": number, "source": source, "accuracy": 0.5, "ece": 0.1}
        for number in (0, 1)
        for source in ("server-test/base", "server-test/new", "server-test/new-calibrated")
    ]
    found = texts(draw_rounds, pd.DataFrame(rows))
    assert {"base", "new"} <= set(found)
    assert not [text for text in found if "calibrated" in text or "server" in text]


def test_a_line_marks_where_other_clients_were_measured():
    with new_figure(3, 3) as figure:
        draw_rounds(figure, pd.DataFrame(ROWS), [2])
        marks = [
            line.get_xdata()[0] for axes in figure.axes for line in axes.lines
            if line.get_linestyle() == ":"
        ]  # fmt: skip
    assert marks == [1.5, 1.5]
    assert "other clients measured" in texts(draw_rounds, pd.DataFrame(ROWS), [2])
    assert "other clients measured" not in texts(draw_rounds, pd.DataFrame(ROWS), [])

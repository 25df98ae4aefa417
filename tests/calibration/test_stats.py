import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_examples import CONFIDENCE_A, CORRECT_A, bins_by_loop, random_predictions, rows_with

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise

SPEC = StatsSpec(num_bins=5, num_classes=4, fine_bins=20, classwise=True)
COUNTS = ("count", "correct", "fine_count", "fine_correct", "class_count", "top_count")


def stats_of(seed, n, spec=SPEC):
    return CalibrationStats.from_probabilities(*random_predictions(seed, n, 4), spec)


def assert_equal(one, other):
    for name, array in one.to_arrays().items():
        theirs = other.to_arrays()[name]
        if name in COUNTS:
            np.testing.assert_array_equal(array, theirs, err_msg=name)
        np.testing.assert_allclose(array, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


def test_bin_sums_of_example_a():
    stats = CalibrationStats.from_probabilities(
        *rows_with(CONFIDENCE_A, CORRECT_A), StatsSpec(num_bins=5)
    )
    assert stats.count.tolist() == [2, 2, 2, 1, 3]
    assert stats.correct.tolist() == [0, 1, 1, 1, 2]
    np.testing.assert_allclose(stats.confidence, [0.3, 0.75, 1.15, 0.75, 2.85])
    np.testing.assert_allclose(
        [stats.count, stats.confidence, stats.correct], bins_by_loop(CONFIDENCE_A, CORRECT_A, 5)
    )
    c, a = CONFIDENCE_A, CORRECT_A
    assert stats.confidence_squared.sum() == pytest.approx((c**2).sum())
    assert stats.confidence_correct.sum() == pytest.approx((c * a).sum())
    assert stats.spiegelhalter_variance == pytest.approx(((1 - 2 * c) ** 2 * c * (1 - c)).sum())
    assert stats.num_examples == 10


def test_classwise_tables_by_loop():
    p, labels = random_predictions(3, 40, 4)
    stats = CalibrationStats.from_probabilities(p, labels, SPEC)
    for j in range(4):
        n, total, right = bins_by_loop(p[:, j], labels == j, 5)
        np.testing.assert_array_equal(stats.class_count[j], n)
        np.testing.assert_allclose(stats.class_probability[j], total)
        np.testing.assert_array_equal(stats.class_label[j], right)
        mine = p.argmax(1) == j
        n, total, right = bins_by_loop(p[mine].max(1), labels[mine] == j, 5)
        np.testing.assert_array_equal(stats.top_count[j], n)
        np.testing.assert_allclose(stats.top_confidence[j], total)
        np.testing.assert_array_equal(stats.top_correct[j], right)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=3), st.integers(0, 1000))
def test_a_commutative_monoid(sizes, seed):
    a, b, c = (stats_of(seed + i, n) for i, n in enumerate(sizes))
    assert_equal(a + CalibrationStats.zero(SPEC), a)
    assert_equal(CalibrationStats.zero(SPEC) + a, a)
    assert_equal(a + b, b + a)
    assert_equal((a + b) + c, a + (b + c))
    assert_equal(sum([a, b, c]), a + b + c)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.data())
def test_sums_of_the_parts_are_those_of_the_union(n, data):
    cut = data.draw(st.integers(0, n))
    p, labels = random_predictions(n, n, 4)
    whole = CalibrationStats.from_probabilities(p, labels, SPEC)
    parts = [
        CalibrationStats.from_probabilities(p[:cut], labels[:cut], SPEC),
        CalibrationStats.from_probabilities(p[cut:], labels[cut:], SPEC),
    ]
    assert_equal(sum(parts), whole)
    order = data.draw(st.permutations(range(n)))
    assert_equal(CalibrationStats.from_probabilities(p[order], labels[order], SPEC), whole)


def test_logits_and_probabilities_agree():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(50) % 4
    from_logits = CalibrationStats.from_logits(logits, labels, SPEC)
    from_probabilities = CalibrationStats.from_probabilities(
        logits.double().softmax(1), labels, SPEC
    )
    assert_equal(from_logits, from_probabilities)


def test_arrays_round_trip_and_are_the_message():
    stats = stats_of(0, 30)
    arrays = stats.to_arrays()
    assert_equal(CalibrationStats.from_arrays(arrays, SPEC), stats)
    assert sum(a.size for a in arrays.values()) == stats.num_floats
    assert stats.num_floats == 5 * 5 + 5 + 3 * 20 + 6 * 5 * 4
    assert all(a.dtype == np.float64 for a in arrays.values())


@pytest.mark.parametrize(
    ("spec", "floats"),
    [
        (StatsSpec(), 75 + 5 + 3000),
        (StatsSpec(num_bins=10, fine_bins=0), 55),
        (StatsSpec(num_classes=100), 3080),
        (StatsSpec(num_classes=100, classwise=True), 3080 + 6 * 15 * 100),
    ],
)
def test_message_size(spec, floats):
    stats = CalibrationStats.zero(spec)
    assert stats.num_floats == floats == sum(a.size for a in stats.to_arrays().values())
    assert stats.num_examples == 0


def test_integers_and_float32_arrays_are_read_as_float64():
    arrays = {k: v.astype(np.float32) for k, v in stats_of(0, 3).to_arrays().items()}
    assert CalibrationStats.from_arrays(arrays, SPEC).count.dtype == np.float64


def test_from_arrays_is_strict():
    arrays = stats_of(0, 3).to_arrays()
    without = {k: v for k, v in arrays.items() if k != "nll"}
    with pytest.raises(ValueError, match=r"lack \['nll'\]"):
        CalibrationStats.from_arrays(without, SPEC)
    with pytest.raises(ValueError, match=r"unexpected \['extra'\]"):
        CalibrationStats.from_arrays({**arrays, "extra": arrays["nll"]}, SPEC)
    with pytest.raises(ValueError, match=r"'count' must have shape \(5,\).*found \(6,\)"):
        CalibrationStats.from_arrays({**arrays, "count": np.zeros(6)}, SPEC)
    with pytest.raises(ValueError, match="'count' holds NaN or negative"):
        CalibrationStats.from_arrays({**arrays, "count": np.full(5, np.nan)}, SPEC)


def test_different_sizes_cannot_be_added():
    with pytest.raises(ValueError, match="different sizes: num_bins 15 and 10, classwise"):
        CalibrationStats.zero(StatsSpec(num_classes=2)) + CalibrationStats.zero(
            StatsSpec(num_bins=10, num_classes=2, classwise=True)
        )
    with pytest.raises(TypeError):
        CalibrationStats.zero() + 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_bins": 0}, "num_bins must be at least 1"),
        ({"fine_bins": -1}, "fine_bins must be at least 0"),
        ({"classwise": True}, "need num_classes"),
    ],
)
def test_impossible_sizes(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StatsSpec(**kwargs)


def test_number_of_classes_is_checked_when_given():
    with pytest.raises(ValueError, match="4 classes, found rows of 3"):
        CalibrationStats.from_logits(np.zeros((2, 3)), np.zeros(2, np.int64), SPEC)


def test_one_example_changes_one_bin_by_at_most_one():
    stats = stats_of(5, 1)
    for name in ("count", "confidence", "correct", "fine_count", "fine_confidence"):
        array = getattr(stats, name)
        assert np.count_nonzero(array) <= 1
        assert array.max() <= 1


def test_summary_of_sums_is_the_summary_of_the_union():
    p, labels = random_predictions(9, 200, 4)
    clients = [CalibrationStats.from_probabilities(p[i::3], labels[i::3]) for i in range(3)]
    pooled = summarise(CalibrationStats.from_probabilities(p, labels))
    assert summarise(sum(clients)) == pytest.approx(pooled, rel=1e-12)

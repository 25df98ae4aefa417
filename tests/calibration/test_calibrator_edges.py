"""Calibrators on awkward data: empty, certain, half-precise, malformed; and their arguments."""

import pytest
import torch

from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.calibration.calibrators.fitting import add_sums, fit

torch.set_num_threads(1)

TOP1 = [
    "histogram_binning",
    "histogram_binning(bins=20, laplace=True)",
    "isotonic",
    "bbq",
    "beta",
    "beta(smooth=False)",
    "platt",
    "spline",
]
FITTED = [
    "temperature",
    "vector",
    "vector(solver='lbfgs')",
    "matrix",
    "matrix(solver='lbfgs')",
    "dirichlet",
    "dirichlet(solver='lbfgs')",
    "ensemble",
    "ensemble(objective='ce')",
    "parametrised_temperature(steps=40)",
    "order_preserving(steps=40)",
    "zero_shot_temperature",
    *TOP1,
]


def draw(seed, n, k=4):
    """Return logits (n, k) that are twice too sharp, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator).squeeze(1)
    return logits, labels


def contexts_of(clients):
    """Return contexts whose zero-shot logits are flatter than the tuned ones."""
    return [CalibrationContext(zero_shot_logits=0.8 * logits.double()) for logits, _ in clients]


def fitted(spec, logits, labels):
    data = [(logits, labels)]
    calibrator = build_calibrator(spec)
    return calibrator, fit(calibrator, data, contexts_of(data))


@pytest.mark.parametrize("spec", FITTED)
def test_no_examples_anywhere_is_an_error(spec):
    empty = [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    with pytest.raises(ValueError, match=r"[A-Z]\w+: expected at least one calibration example"):
        fit(build_calibrator(spec), empty, contexts_of(empty))


@pytest.mark.parametrize("spec", FITTED)
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_apply_returns_finite_normalised_float64_rows(spec, classes):
    logits, labels = draw(11, 120, classes)
    calibrator, parameters = fitted(spec, logits, labels)
    for rows in (logits, logits * 300, logits[:0], torch.zeros(2, classes)):
        applied = calibrator.apply(rows, parameters)
        assert applied.dtype == torch.float64
        assert applied.shape == rows.shape
        assert torch.isfinite(applied).all()
        ones = torch.ones(len(rows), dtype=torch.float64)
        torch.testing.assert_close(applied.exp().sum(1), ones, rtol=1e-9, atol=1e-9)
        confidence = calibrator.confidence(rows, parameters)
        assert confidence.shape == (len(rows),)
        assert ((confidence >= 0) & (confidence <= 1)).all()


@pytest.mark.parametrize("spec", FITTED)
@pytest.mark.parametrize("right", [True, False])
def test_data_right_or_wrong_throughout_ends_in_finite_parameters(spec, right):
    logits, _ = draw(12, 60)
    labels = logits.argmax(1) if right else logits.argmin(1)
    calibrator, parameters = fitted(spec, logits, labels)
    calibrator.check(parameters, 4)
    before = logits.double().log_softmax(1)
    applied = calibrator.apply(logits, parameters)
    assert torch.isfinite(applied).all()
    if spec.split("(")[0] not in ("histogram_binning", "isotonic", "spline", "bbq"):
        assert nll(applied, labels) <= nll(before, labels)
    if calibrator.preserves_argmax:
        moved = calibrator.confidence(logits, parameters).mean() - before.exp().amax(1).mean()
        assert float(moved) >= 0 if right else float(moved) <= 0


def nll(log_probabilities, labels):
    return float(-log_probabilities.gather(1, labels[:, None]).mean())


@pytest.mark.parametrize("spec", [s for s in FITTED if s not in [*TOP1, "zero_shot_temperature"]])
def test_fitting_lowers_the_loss_of_sharp_logits(spec):
    logits, labels = draw(13, 400)
    calibrator, parameters = fitted(spec, logits, labels)
    before = nll(logits.double().log_softmax(1), labels)
    assert nll(calibrator.apply(logits, parameters), labels) < before - 0.05


@pytest.mark.parametrize("spec", FITTED)
def test_fitting_closes_the_gap_between_confidence_and_accuracy(spec):
    logits, labels = draw(14, 600)
    calibrator, parameters = fitted(spec, logits, labels)
    correct = (calibrator.predictions(logits, parameters) == labels).double().mean()
    gap = float(calibrator.confidence(logits, parameters).mean() - correct)
    raw = logits.double().softmax(1)
    raw_gap = float((raw.amax(1) - (raw.argmax(1) == labels).double()).mean())
    assert raw_gap > 0.1
    assert abs(gap) < (raw_gap if spec == "zero_shot_temperature" else 0.3 * raw_gap)


@pytest.mark.parametrize("spec", FITTED)
def test_half_precision_logits_give_what_their_widened_values_give(spec):
    logits, labels = draw(15, 50)
    halves = logits.half()
    calibrator, parameters = fitted(spec, halves, labels.to(torch.int32))
    _, widened = fitted(spec, halves.double(), labels)
    assert all(torch.equal(parameters[name], widened[name]) for name in widened)
    assert torch.equal(
        calibrator.apply(halves, parameters), calibrator.apply(halves.double(), widened)
    )


@pytest.mark.parametrize("spec", [*FITTED, "sals", "dac"])
def test_one_class_is_refused(spec):
    with pytest.raises(ValueError, match="num_classes: expected at least 2, found 1"):
        build_calibrator(spec).start(1)


@pytest.mark.parametrize(("logits", "labels", "message"), [
    (torch.zeros(3), torch.zeros(3).long(), r"logits: expected shape \(N, K\)"),
    (torch.zeros(3, 1), torch.zeros(3).long(), "logits: expected shape"),
    (torch.full((1, 2), torch.nan), torch.zeros(1).long(), "logits: expected finite"),
    (torch.zeros(3, 2), torch.zeros(2).long(), r"labels: expected shape \(3,\), found \(2,\)"),
    (torch.zeros(1, 2), torch.zeros(1), "labels: expected integers, found torch.float32"),
    (torch.zeros(1, 2), torch.tensor([2]), r"labels: expected values in 0..1, found 2..2"),
    (torch.zeros(1, 2), torch.tensor([-1]), r"labels: expected values in 0..1, found -1..-1"),
])  # fmt: skip
@pytest.mark.parametrize("spec", ["temperature", "histogram_binning", "beta", "vector",
                                  "order_preserving"])  # fmt: skip
def test_bad_data_is_refused(spec, logits, labels, message):
    calibrator = build_calibrator(spec)
    with pytest.raises(ValueError, match=message):
        calibrator.statistics(logits, labels, calibrator.start(2))


@pytest.mark.parametrize(("spec", "message"), [
    ("vector(ridge=-1)", "ridge: expected a number >= 0, found -1"),
    ("matrix(solver='adam')", "solver: expected one of auto, newton, lbfgs, found 'adam'"),
    ("dirichlet(intercept='x')", "intercept: expected a number >= 0, found 'x'"),
    ("matrix(tolerance=0)", "tolerance: expected a number > 0, found 0"),
    ("vector(max_steps=0)", "max_steps: expected a whole number from 1"),
    ("ensemble(objective='nll')", "objective: expected one of mse, ce"),
    ("ensemble(weight_steps=True)", "weight_steps: expected a whole number"),
    ("histogram_binning(bins=0)", "bins: expected a whole number from 1"),
    ("histogram_binning(laplace=1)", "laplace: expected True or False, found 1"),
    ("isotonic(bins=2.5)", "bins: expected a whole number from 2 to .*, found 2.5"),
    ("bbq(bins=[])", "bins: expected at least one"),
    ("bbq(bins=[4, 4])", "bins: expected .* none twice"),
    ("bbq(bins=[997, 991])", "bins: expected a least common multiple up to 100000"),
    ("bbq(bins=['a'])", "bins: expected a whole number"),
    ("bbq(bins=5)", "bins: expected a list of whole numbers or None, found 5"),
    ("bbq(pseudo_count=0)", "pseudo_count: expected a number > 0, found 0"),
    ("beta(smooth='yes')", "smooth: expected True or False, found 'yes'"),
    ("spline(knots=2)", "knots: expected a whole number from 3 to 100, found 2"),
    ("parametrised_temperature(top=0)", "top: expected"),
    ("order_preserving(learning_rate=0)", "learning_rate: expected a number > 0"),
    ("dac(neighbours=0)", "neighbours: expected a whole number from 1"),
    ("zero_shot_temperature(temperature=0)", "temperature: expected"),
])  # fmt: skip
def test_bad_arguments_are_refused_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        build_calibrator(spec)


def test_add_sums_adds_by_name_and_refuses_other_names():
    one, two = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])}
    assert add_sums([one, two])["a"].tolist() == [4, 6]
    assert one["a"].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"expected the names \['a'\], found \['b'\]"):
        add_sums([one, {"b": torch.zeros(2)}])


def test_fit_without_clients_is_refused():
    with pytest.raises(ValueError, match="clients: expected at least one"):
        fit(build_calibrator("temperature"), [])


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p.pop("bias"), r"expected \['bias', 'weight'\], found \['weight'\]"),
    (lambda p: p.update(extra=torch.zeros(1)), "extra"),
    (lambda p: p.update(bias=torch.zeros(3)), r"'bias': expected shape \(4,\) for 4 classes"),
    (lambda p: p.update(bias=torch.full((4,), torch.inf)), "'bias': expected finite"),
])  # fmt: skip
def test_check_names_the_parameter_that_does_not_fit(change, message):
    calibrator = build_calibrator("vector")
    parameters = dict(calibrator.start(4).parameters)
    calibrator.check(parameters, 4)
    change(parameters)
    with pytest.raises(ValueError, match=message):
        calibrator.check(parameters, 4)

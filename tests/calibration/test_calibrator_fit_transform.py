"""``fit`` and ``transform`` on calibrators themselves, with arrays, tensors and lists."""

import numpy as np
import pytest
import torch

from fl2ora.calibration.calibrators.base import CalibrationContext
from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.calibration.calibrators.fitting import fit

torch.set_num_threads(1)


def data(n=300, k=4):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((n, k))
    chances = np.exp(logits / 2)
    chances /= chances.sum(1, keepdims=True)
    labels = np.array([rng.choice(k, p=row) for row in chances])
    return logits, labels


@pytest.mark.parametrize("spec", ["temperature", "vector", "isotonic", "ensemble", "beta"])
def test_fit_and_transform_are_the_functions_on_one_client(spec):
    logits, labels = data()
    calibrator = build_calibrator(spec)
    assert calibrator.fit(logits, labels) is calibrator
    expected = fit(calibrator, [(torch.tensor(logits), torch.tensor(labels))])
    assert all(torch.equal(calibrator.parameters[name], expected[name]) for name in expected)
    found = calibrator.transform(logits)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-9)
    applied = calibrator.apply(torch.tensor(logits), expected).exp()
    np.testing.assert_array_equal(found, applied.numpy())
    tensors = calibrator.transform(torch.tensor(logits))
    assert torch.equal(tensors, applied)
    np.testing.assert_array_equal(build_calibrator(spec).fit_transform(logits, labels), found)


def test_lists_and_read_only_arrays_are_welcome():
    logits, labels = data(20, 3)
    frozen = logits.copy()
    frozen.setflags(write=False)
    found = [
        build_calibrator("temperature").fit_transform(rows, y)
        for rows, y in ((logits, labels), (logits.tolist(), labels.tolist()), (frozen, labels))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_training_free_calibrators_need_no_fit_but_their_context():
    logits, _ = data(5)
    context = CalibrationContext(zero_shot_logits=torch.tensor(logits / 2))
    found = build_calibrator("sals").transform(logits, context=context)
    assert found.shape == logits.shape
    with pytest.raises(ValueError, match="sals: expected a context with zero_shot_logits"):
        build_calibrator("sals").transform(logits)


def test_context_reaches_the_fit():
    logits, labels = data()
    context = CalibrationContext(zero_shot_logits=torch.tensor(logits / 4))
    calibrator = build_calibrator("zero_shot_temperature").fit(logits, labels, context=context)
    assert float(calibrator.parameters["inverse_temperature"]) > 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ("ab", [0], "logits: expected numbers, found str"),
        (None, [0], "logits: expected numbers, found NoneType"),
        ([[0.0, 1.0], [2.0]], [0, 1], "logits: expected rows of equal length"),
        ([[0j, 1j]], [0], "logits: expected real numbers"),
        ([[0.0, 1.0]], [0.0], "labels: expected integers"),
        ([[0.0, -np.inf]], [0], "logits: expected finite values.*masked classes"),
        ([[0.0, -1e300]], [0], "logits: expected none beyond 1e\\+100, found 1e\\+300"),
        ([[0.0, 1.0]], [[0]], r"labels: expected shape \(1,\), found \(1, 1\)"),
        ([[0.0, 1.0]], ["a"], "labels: expected numbers, found list"),
    ],
)
def test_bad_data_is_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        build_calibrator("temperature").fit(logits, labels)


def test_transform_before_fit_and_of_other_classes():
    calibrator = build_calibrator("vector")
    with pytest.raises(ValueError, match="Vector: expected a call of fit before transform"):
        calibrator.transform(np.zeros((1, 4)))
    calibrator.fit(*data())
    with pytest.raises(ValueError, match=r"expected shape \(3,\) for 3 classes, found \(4,\)"):
        calibrator.transform(np.zeros((1, 3)))


def test_classes_that_are_tuned_on_are_left_alone_by_dac():
    texts = torch.nn.functional.normalize(
        torch.tensor([[[1.0, 0], [0, 1]], [[1, 1], [0, 1]]]), dim=2
    )
    logits = np.array([[1.0, 0.0]])
    context = CalibrationContext.of_tuned_classes(torch.zeros(1, 2), texts[0], texts[1])
    found = build_calibrator("dac").transform(logits, context=context)
    assert found == pytest.approx(np.exp(logits) / np.exp(logits).sum())


def test_dac_wants_the_features_of_the_tuned_classes():
    context = CalibrationContext(*torch.ones(3, 2, 2))
    with pytest.raises(ValueError, match="dac: expected a context with base_text_features"):
        build_calibrator("dac").transform(np.zeros((1, 2)), context=context)

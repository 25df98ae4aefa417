"""Training-free calibrators of CLIP: SaLS and distance-aware calibration."""

import math

import numpy as np
import pytest
import torch

from fl2ora.calibration.calibrators.base import CalibrationContext, FitState
from fl2ora.calibration.calibrators.dac import Dac
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.sals import Sals

torch.set_num_threads(1)

EXAMPLE = (torch.tensor([[40.0, 25, 10]]), torch.tensor([[24.0, 22, 20]]))


def features(**changes):
    """Return the example of two base classes and one class that moved away from them."""
    base = torch.tensor([[1.0, 0], [0, 1]])
    given = {
        "text_features": torch.tensor([[-0.6, 0.8]]),
        "zero_shot_text_features": torch.tensor([[0.6, 0.8]]),
        "base_text_features": base,
        "base_zero_shot_text_features": base,
    }
    return CalibrationContext(**{**given, **changes})


def test_sals_of_the_example():
    logits, zero_shot = EXAMPLE
    assert float(logits.softmax(1)[0, 0]) == pytest.approx(1, abs=1e-6)
    applied = Sals().apply(logits, {}, context=CalibrationContext(zero_shot_logits=zero_shot))
    torch.testing.assert_close(applied, zero_shot.double().log_softmax(1))
    assert float(applied[0, 0].exp()) == pytest.approx(0.866813, abs=1e-6)
    assert float(applied[0, 0].exp()) == pytest.approx(1 / (1 + math.exp(-2) + math.exp(-4)))


@pytest.mark.parametrize("seed", range(3))
def test_sals_takes_the_range_of_the_zero_shot_logits_and_keeps_the_argmax(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 20 + 9 * torch.randn(30, 5, generator=generator)
    zero_shot = 25 + 2 * torch.randn(30, 5, generator=generator)
    applied = Sals().apply(logits, {}, context=CalibrationContext(zero_shot_logits=zero_shot))
    assert torch.equal(applied.argmax(1), logits.argmax(1))
    width = applied.amax(1) - applied.amin(1)
    wanted = (zero_shot.amax(1) - zero_shot.amin(1)).double()
    torch.testing.assert_close(width, wanted)
    for row, before in zip(applied.numpy(), logits.double().numpy(), strict=True):
        slope = np.polyfit(before, row, 1)
        np.testing.assert_allclose(np.polyval(slope, before), row, atol=1e-9)  # one line


def test_sals_with_equal_logits_is_uniform():
    logits, zero_shot = torch.full((1, 3), 7.0), torch.tensor([[1.0, 2.0, 3.0]])
    context = CalibrationContext(zero_shot_logits=zero_shot)
    torch.testing.assert_close(
        Sals().apply(logits, {}, context=context).exp(), torch.full((1, 3), 1 / 3).double()
    )
    swapped = CalibrationContext(zero_shot_logits=logits)
    applied = Sals().apply(zero_shot, {}, context=swapped)
    torch.testing.assert_close(applied.exp(), torch.full((1, 3), 1 / 3).double())
    assert Sals().predictions(zero_shot, {}, context=swapped).tolist() == [2]


def test_sals_says_what_is_missing():
    assert Sals.needs == {"zero_shot_logits"}
    for context in (None, CalibrationContext()):
        with pytest.raises(ValueError, match="sals: expected a context with zero_shot_logits"):
            Sals().apply(EXAMPLE[0], {}, context=context)
    context = CalibrationContext(zero_shot_logits=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected shape \(1, 3\), found \(2, 3\)"):
        Sals().apply(EXAMPLE[0], {}, context=context)


def test_dac_factor_of_the_example():
    near = (math.hypot(0.4, 0.8) + math.hypot(0.6, 0.2)) / 2
    far = (math.hypot(1.6, 0.8) + math.hypot(0.6, 0.2)) / 2
    assert (near, far) == pytest.approx((0.763441, 1.210655), abs=1e-6)
    factor = float(Dac(neighbours=2).factors(features())[0])
    assert factor == pytest.approx(math.exp(near - far), rel=1e-6)
    assert factor == pytest.approx(0.639407, abs=1e-6)
    assert float(Dac(neighbours=5).factors(features())[0]) == pytest.approx(factor)  # only two
    nearest = math.hypot(0.6, 0.2)
    assert float(Dac(neighbours=1).factors(features())[0]) == pytest.approx(
        math.exp(min(nearest, math.hypot(0.4, 0.8)) - nearest), rel=1e-6
    )


def test_dac_leaves_base_classes_alone():
    close = torch.tensor([[math.cos(0.04), math.sin(0.04)], [math.cos(0.06), math.sin(0.06)]])
    zero_shot = torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    context = features(text_features=close, zero_shot_text_features=zero_shot)
    factors = Dac(neighbours=2).factors(context)
    assert float(factors[0]) == 1
    assert abs(float(factors[1]) - 1) > 0.01
    assert float(Dac(neighbours=2, base_distance=0.1).factors(context)[1]) == 1


def test_dac_scales_a_row_by_the_factor_of_its_predicted_class():
    context = features(
        text_features=torch.tensor([[-0.6, 0.8], [1.0, 0.0]]),
        zero_shot_text_features=torch.tensor([[0.6, 0.8], [1.0, 0.0]]),
    )
    calibrator = Dac(neighbours=2)
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    applied = calibrator.apply(logits, {}, context=context)
    factor = 0.639407
    wanted = torch.tensor([[3 * factor, factor], [1.0, 3.0]]).double().log_softmax(1)
    torch.testing.assert_close(applied, wanted, atol=1e-5, rtol=0)
    assert torch.equal(applied.argmax(1), logits.argmax(1))


@pytest.mark.parametrize(("changes", "message"), [
    ({"text_features": None}, "dac: expected a context with text_features"),
    ({"base_zero_shot_text_features": None}, "a context with base_zero_shot_text_features"),
    ({"base_text_features": torch.zeros(0, 2)}, r"base_text_features \(B, D\) with B >= 1"),
    ({"text_features": torch.zeros(1, 3)}, r"found \(1, 3\) and \(2, 2\)"),
    ({"zero_shot_text_features": torch.zeros(2, 2)}, "expected 1 rows as text_features, found 2"),
])  # fmt: skip
def test_dac_says_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        Dac().factors(features(**changes))


def test_dac_wants_one_text_feature_per_class():
    with pytest.raises(ValueError, match="expected 3 rows, one per class, found 1"):
        Dac().apply(torch.zeros(1, 3), {}, context=features())


@pytest.mark.parametrize("calibrator", [Sals(), Dac()])
def test_clip_calibrators_without_fit_have_no_parameters(calibrator):
    state = calibrator.start(3)
    assert state == FitState({}, {}, True)
    data = (torch.zeros(2, 3), torch.zeros(2).long())
    assert fit(calibrator, [data]) == {}
    sums = calibrator.statistics(*data, state)
    assert {name: float(value) for name, value in sums.items()} == {"count": 2}
    assert calibrator.update(state, sums) is state
    assert calibrator.max_steps == 0

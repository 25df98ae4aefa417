import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.server_app.run_plugins import build_run_calibrator


def test_a_calibrator_that_needs_base_classes_is_refused_before_the_run():
    with pytest.raises(UserError, match=r"'dac', which needs base_text_features"):
        build_run_calibrator("dac")


@pytest.mark.parametrize("text", ["sals", "temperature", "zero_shot_temperature"])
def test_others_are_built(text):
    assert build_run_calibrator(text) is not None


def test_none_is_none():
    assert build_run_calibrator("none") is None

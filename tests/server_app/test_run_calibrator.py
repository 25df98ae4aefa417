import pytest

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.server_app.run_plugins import build_plugins, build_run_calibrator


def test_a_calibrator_of_new_classes_is_refused_where_there_are_none():
    with pytest.raises(UserError, match="'dac' corrects classes that are not trained on"):
        build_run_calibrator("dac")
    with pytest.raises(ConfigError, match="calibrator: 'dac' corrects classes"):
        build_plugins(RunConfig(calibrator="dac"))


@pytest.mark.parametrize("protocol", ["base_to_new", "few_shot(then='base_to_new')"])
def test_it_is_built_where_there_are_some(protocol):
    assert build_plugins(RunConfig(calibrator="dac", protocol=protocol)).calibrator is not None


@pytest.mark.parametrize("text", ["sals", "temperature", "zero_shot_temperature"])
def test_others_are_built(text):
    assert build_run_calibrator(text) is not None


def test_none_is_none():
    assert build_run_calibrator("none") is None

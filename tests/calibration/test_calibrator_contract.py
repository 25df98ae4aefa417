"""What every calibrator promises, checked on every file of the package."""

import importlib
import inspect
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fl2ora.calibration.calibrators
from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator, FitState
from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.calibration.calibrators.fitting import fit

torch.set_num_threads(1)

FITTED = {
    "temperature": True,
    "vector": False,
    "vector(solver='lbfgs')": False,
    "matrix": False,
    "matrix(solver='lbfgs')": False,
    "dirichlet": False,
    "dirichlet(solver='lbfgs')": False,
    "ensemble": True,
    "ensemble(objective='ce')": True,
    "histogram_binning": True,
    "histogram_binning(bins=20, laplace=True)": True,
    "isotonic": True,
    "bbq": True,
    "beta": True,
    "beta(smooth=False)": True,
    "platt": True,
    "spline": True,
    "parametrised_temperature(steps=40)": True,
    "order_preserving(steps=40)": True,
    "zero_shot_temperature": True,
    "conformal": True,
    "conformal(score='raps', bins=7)": True,
    "conformal(after='temperature')": True,
}
TOP1_STEMS = ("histogram_binning", "isotonic", "bbq", "beta", "platt", "spline")
TOP1 = [spec for spec in FITTED if spec.split("(")[0] in TOP1_STEMS]
MONOTONE = [spec for spec, preserves in FITTED.items() if preserves and spec not in TOP1]
UNFITTED = ["sals", "dac"]
STEMS = sorted({spec.split("(")[0] for spec in FITTED} | set(UNFITTED))


def draw(seed, n, k=4):
    """Return logits (n, k) that are twice too sharp, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator).squeeze(1)
    return logits, labels


def contexts_of(clients):
    """Return contexts whose zero-shot logits are flatter than the tuned ones."""
    return [CalibrationContext(zero_shot_logits=0.8 * logits.double()) for logits, _ in clients]


def split(logits, labels, sizes):
    """Return one client per size; the last takes what is left."""
    bounds = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [(logits[a:b], labels[a:b]) for a, b in itertools.pairwise(bounds)] + [
        (logits[bounds[-1] :], labels[bounds[-1] :])
    ]


def fitted(spec, logits, labels):
    data = [(logits, labels)]
    calibrator = build_calibrator(spec)
    return calibrator, fit(calibrator, data, contexts_of(data))


def test_each_file_holds_exactly_one_public_calibrator_named_after_it():
    folder = Path(fl2ora.calibration.calibrators.__path__[0])
    others = ("base", "files", "fitting")
    files = sorted(p.stem for p in folder.glob("[a-z]*.py") if p.stem not in others)
    assert files == STEMS
    assert len(files) == 17
    for stem in files:
        module = importlib.import_module(f"fl2ora.calibration.calibrators.{stem}")
        public = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, Calibrator)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
        assert public == [stem.title().replace("_", "")]


@pytest.mark.parametrize("spec", FITTED)
@pytest.mark.parametrize("sizes", [(60, 0, 100), (0, 1, 2), (119, 0, 0, 60)])
def test_federated_fit_equals_the_pooled_fit(spec, sizes):
    logits, labels = draw(sum(sizes), 240)
    clients = split(logits, labels, sizes)
    calibrator, pooled = fitted(spec, logits, labels)
    federated = fit(calibrator, clients, contexts_of(clients))
    assert pooled.keys() == federated.keys()
    for name, value in pooled.items():
        torch.testing.assert_close(federated[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", FITTED)
def test_fit_does_not_depend_on_which_client_comes_first(spec):
    logits, labels = draw(5, 150)
    clients = split(logits, labels, (30, 50))
    calibrator = build_calibrator(spec)
    first = fit(calibrator, clients, contexts_of(clients))
    second = fit(calibrator, clients[::-1], contexts_of(clients[::-1]))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", FITTED)
def test_statistics_read_only_the_parameters_of_the_state(spec):
    logits, labels = draw(6, 30)
    context = contexts_of([(logits, labels)])[0]
    calibrator = build_calibrator(spec)
    state = calibrator.start(4)
    kept = calibrator.statistics(logits, labels, state, context=context)
    reordered = dict(sorted(state.parameters.items()))
    bare = calibrator.statistics(logits, labels, FitState(reordered, {}, False), context=context)
    assert kept.keys() == bare.keys()
    assert all(torch.equal(kept[name], bare[name]) for name in kept)
    assert float(kept["count"].sum()) == 30


@pytest.mark.parametrize("spec", FITTED)
def test_update_survives_parameters_in_another_order(spec):
    logits, labels = draw(7, 80)
    context = contexts_of([(logits, labels)])[0]
    calibrator, wanted = fitted(spec, logits, labels)
    state = calibrator.start(4)
    while not state.done:
        state = FitState(dict(sorted(state.parameters.items())), state.solver, False)
        state = calibrator.update(
            state, calibrator.statistics(logits, labels, state, context=context)
        )
    for name, value in wanted.items():
        torch.testing.assert_close(state.parameters[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", FITTED)
def test_a_fit_ends_within_its_steps(spec):
    logits, labels = draw(8, 100)
    context = contexts_of([(logits, labels)])[0]
    calibrator = build_calibrator(spec)
    state, rounds = calibrator.start(4), 0
    while not state.done:
        assert rounds < calibrator.max_steps
        state = calibrator.update(
            state, calibrator.statistics(logits, labels, state, context=context)
        )
        rounds += 1
    assert rounds >= 1


@pytest.mark.parametrize("spec", [s for s in FITTED if s not in TOP1])
def test_start_is_the_identity(spec):
    logits, _ = draw(9, 20)
    calibrator = build_calibrator(spec)
    applied = calibrator.apply(logits, calibrator.start(4).parameters)
    torch.testing.assert_close(applied, logits.double().log_softmax(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("spec", "within"), [
    ("histogram_binning", 1 / 30), ("isotonic", 1 / 2000), ("bbq", 1 / 1440), ("spline", 1e-12),
    ("beta", 1e-12), ("platt", 1e-12),
])  # fmt: skip
def test_start_is_nearly_the_identity_for_top1_calibrators(spec, within):
    logits, _ = draw(10, 200)
    calibrator = build_calibrator(spec)
    confidence = calibrator.confidence(logits, calibrator.start(4).parameters)
    wanted = logits.double().softmax(1).amax(1)
    assert float((confidence - wanted).abs().max()) <= within + 1e-12


PARAMETERS = {}


def parameters_of(spec, classes):
    """Fit once per calibrator and number of classes."""
    if (spec, classes) not in PARAMETERS:
        PARAMETERS[spec, classes] = fitted(spec, *draw(16, 80, classes))
    return PARAMETERS[spec, classes]


EIGHTHS = st.integers(-160, 160).map(lambda i: i / 8)
ROWS = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.lists(EIGHTHS, min_size=k, max_size=k), min_size=1, max_size=6)
)


@pytest.mark.parametrize("spec", MONOTONE)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_monotone_calibrators_keep_the_argmax_of_every_row(spec, rows):
    logits = torch.tensor(rows)
    calibrator, parameters = parameters_of(spec, logits.shape[1])
    applied = calibrator.apply(logits, parameters)
    assert torch.equal(applied.argmax(1), logits.argmax(1))
    assert torch.equal(calibrator.predictions(logits, parameters), logits.argmax(1))


@pytest.mark.parametrize("spec", TOP1)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_top1_calibrators_give_the_confidence_to_the_predicted_class_only(spec, rows):
    logits = torch.tensor(rows)
    calibrator, parameters = parameters_of(spec, logits.shape[1])
    predicted = logits.argmax(1)
    assert torch.equal(calibrator.predictions(logits, parameters), predicted)
    applied = calibrator.apply(logits, parameters)
    confidence = calibrator.confidence(logits, parameters)
    given_to = applied.exp().gather(1, predicted[:, None]).squeeze(1)
    torch.testing.assert_close(given_to, confidence, rtol=0, atol=2e-12)
    others = torch.ones_like(applied).scatter(1, predicted[:, None], 0).bool()
    shift = applied - logits.double()
    for row, mask in zip(shift, others, strict=True):
        assert float(row[mask].max() - row[mask].min()) < 1e-9  # ratios of the others stay


@pytest.mark.parametrize("spec", [s for s, preserves in FITTED.items() if not preserves])
def test_calibrators_that_may_move_the_argmax_say_so_and_report_their_own(spec):
    logits = torch.tensor([[1.0, 0.9], [0.9, 1.0], [3.0, 0.0], [1.0, 0.95]])
    calibrator, parameters = fitted(spec, logits, torch.tensor([1, 1, 0, 1]))
    assert not calibrator.preserves_argmax
    applied = calibrator.apply(logits, parameters)
    assert not torch.equal(applied.argmax(1), logits.argmax(1))
    assert torch.equal(calibrator.predictions(logits, parameters), applied.argmax(1))
    torch.testing.assert_close(calibrator.confidence(logits, parameters), applied.exp().amax(1))


@pytest.mark.parametrize("spec", [*FITTED, *UNFITTED])
def test_flags_of_the_class_say_what_was_tested(spec):
    calibrator = build_calibrator(spec)
    assert calibrator.preserves_argmax is FITTED.get(spec, True)
    assert calibrator.exact is (spec not in ("isotonic", "spline"))


def test_the_user_page_lists_every_calibrator_with_its_defaults():
    page = Path(__file__).parents[2] / "docs" / "calibrators.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    specs = [row.split("`")[1] for row in rows]
    assert sorted(spec.split("(")[0] for spec in specs) == STEMS
    for spec in specs:
        defaults = inspect.signature(type(build_calibrator(spec))).parameters.values()
        wanted = ", ".join(f"{p.name}={p.default!r}" for p in defaults)
        assert spec == spec.split("(")[0] + (f"({wanted})" if wanted else "")

"""Spec strings: what is read from them, what is refused, and that nothing in them runs."""

from __future__ import annotations

import contextlib
import keyword
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.spec import MAX_DEPTH, MAX_LENGTH, Spec, parse_list, parse_spec, parse_sum


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fedavg", Spec(None, "fedavg", (), {})),
        ("  fedavg ", Spec(None, "fedavg", (), {})),
        ("fedavg()", Spec(None, "fedavg", (), {})),
        ("fedprox(mu=0.01)", Spec(None, "fedprox", (), {"mu": 0.01})),
        ("fedprox (mu=1)", Spec(None, "fedprox", (), {"mu": 1})),
        ("trimmed-mean(2)", Spec(None, "trimmed_mean", (2,), {})),
        ("f(1, -2.5, 'a b', True, None)", Spec(None, "f", (1, -2.5, "a b", True, None), {})),
        ("f(x=(1, 2), y={'k': [3]})", Spec(None, "f", (), {"x": (1, 2), "y": {"k": [3]}})),
        ("f(1,)", Spec(None, "f", (1,), {})),
        ("f(\n  mu=1,\n  nu=2,\n)", Spec(None, "f", (), {"mu": 1, "nu": 2})),
        ("f(text=') (')", Spec(None, "f", (), {"text": ") ("})),
        ("my_lab:FedMine", Spec("my_lab", "FedMine", (), {})),
        ("my_lab.methods:FedMine(alpha=2)", Spec("my_lab.methods", "FedMine", (), {"alpha": 2})),
    ],
)  # fmt: skip
def test_a_spec_is_read(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


def test_literals_keep_their_types() -> None:
    spec = parse_spec("f(a=1, b=1.0, c=True, d='1')")
    assert [type(value) for value in spec.kwargs.values()] == [int, float, bool, str]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1abc", "a b", "a.b", "a:b:c", ":b", "a:", "a.:b", "f(", "f)", "f)(", "(1)",
        "f(1) g", "f(1", "f()()", "f(1)(2)", "f(1) + g(2)", "f(a=)", "f(a b)", "f(x for x in y)",
        "f(1).g(2)", "f[0]", "f(a=1, 2)", "f(\x00)",
    ],
)  # fmt: skip
def test_malformed_spec_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("argument", ["x", "1 + 1", "len('a')", "-x", "[x]", "lambda: 1", "f'{1}'"])
def test_an_argument_that_is_no_literal_is_named(argument: str) -> None:
    with pytest.raises(UserError, match="is not a literal") as caught:
        parse_spec(f"f(a={argument})")
    assert argument in str(caught.value)


def test_spec_expressions_are_never_evaluated(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for call in (
        f"__import__('os').system('touch {trace}')",
        f"open('{trace}', 'w')",
        f"a=__import__('pathlib').Path('{trace}').touch()",
        f"*[open('{trace}', 'w')]",
        f"(x := open('{trace}', 'w'))",
    ):
        with pytest.raises(UserError):
            parse_spec(f"f({call})")
        with pytest.raises(UserError):
            parse_sum(f"2*f({call}) + g")
    assert not trace.exists()


def test_double_stars_are_refused() -> None:
    with pytest.raises(UserError, match=r"\*\* is not allowed"):
        parse_spec("f(**{'a': 1})")
    with pytest.raises(UserError, match="not a literal"):
        parse_spec("f(*(1, 2))")


def test_an_argument_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'mu' is given twice"):
        parse_spec("fedprox(mu=0.1, mu=0.2)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("f(" + "-" * 100_000 + "1)", "expected at most 4000 characters, found 100004"),
        ("f(" + "9" * 5000 + ")", "expected at most 4000 characters"),
        ("f(" + "-" * 3000 + "1)", "hold|nested more deeply than 20"),
        ("f(" + "[" * 1000 + "]" * 1000 + ")", "the brackets do not hold a list of arguments"),
        ("f(" + "[" * 50 + "]" * 50 + ")", "nested more deeply than 20 levels"),
        ("f(" + "not " * 900 + "1)", "hold|nested more deeply than 20"),
    ],
)
def test_endless_text_is_refused_in_one_short_line(text: str, words: str) -> None:
    for parse in (parse_spec, parse_sum):
        with pytest.raises(UserError, match=words) as caught:
            parse(text)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_some_nesting_and_length_are_fine() -> None:
    depth = MAX_DEPTH - 3
    assert parse_spec("f(" + "[" * depth + "]" * depth + ")")
    text = "f(x='" + "y" * (MAX_LENGTH - 7) + "')"
    assert len(text) == MAX_LENGTH
    assert parse_spec(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("f(a='x\0')", r"expected no control characters, found '\\x00'"),
        ("f\x1b", r"expected no control characters, found '\\x1b'"),
        ("f(a='x\ty')", r"'x\\ty' holds a tab or a line break"),
        ("f(a='''x\ny''')", r"'x\\ny' holds a tab or a line break"),
        ("f(a='x\ny')", "the brackets do not hold a list of arguments"),
        (r"folder(path='C:\data')", r"a backslash in a text is written twice \('C:\\\\data'\)"),
        (r"folder(path='C:\new')", "or as a slash in a path"),
        (r"folder(path='\x41')", "or as a slash in a path"),
        ("f(a=1\\\n)", "a backslash"),
    ],
)
def test_signs_that_would_be_read_as_something_else_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_spec(text)


def test_windows_paths_are_read_with_two_backslashes_or_with_slashes() -> None:
    assert parse_spec(r"folder('C:\\new\\data')").args == (r"C:\new\data",)
    assert parse_spec("folder('C:/new')").args == ("C:/new",)
    assert parse_spec(r"f('it\'s')").args == ("it's",)


@pytest.mark.parametrize("value", ["1+2j", "3j", "b'x'", "...", "{1, 2}", "[b'x']", "{b'x': 1}"])
def test_literals_of_other_kinds_are_refused(value: str) -> None:
    with pytest.raises(UserError, match="is not a literal"):
        parse_spec(f"f(a={value})")


def test_odd_numbers_leave_no_warning_behind() -> None:
    with pytest.raises(UserError):
        parse_spec("f(a=1if 1else 2)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cross_entropy", [(1.0, "cross_entropy", {})]),
        ("cross_entropy + 10*dca", [(1.0, "cross_entropy", {}), (10.0, "dca", {})]),
        ("cross-entropy+10 * dca", [(1.0, "cross_entropy", {}), (10.0, "dca", {})]),
        ("0.5*mmce(bandwidth=0.4)", [(0.5, "mmce", {"bandwidth": 0.4})]),
        ("1e+2*dca + x", [(100.0, "dca", {}), (1.0, "x", {})]),
        ("x+1.5E+2*dca", [(1.0, "x", {}), (150.0, "dca", {})]),
        ("1.e+1*dca", [(10.0, "dca", {})]),
        ("x + .5e-1*y", [(1.0, "x", {}), (0.05, "y", {})]),
        ("focal + focal(gamma=1)", [(1.0, "focal", {}), (1.0, "focal", {"gamma": 1})]),
        ("loss1e+other", [(1.0, "loss1e", {}), (1.0, "other", {})]),
        ("f(a=1e+2) + g", [(1.0, "f", {"a": 100.0}), (1.0, "g", {})]),
        ("f(a='+')+g(b=\"*+\")", [(1.0, "f", {"a": "+"}), (1.0, "g", {"b": "*+"})]),
        ("x + 10*f(a='2*y + z')", [(1.0, "x", {}), (10.0, "f", {"a": "2*y + z"})]),
        (r"f(a='\')') + g", [(1.0, "f", {"a": "')"}), (1.0, "g", {})]),
        (r"f(a='\\') + g", [(1.0, "f", {"a": "\\"}), (1.0, "g", {})]),
        ("f(a=(1, +2)) + g", [(1.0, "f", {"a": (1, 2)}), (1.0, "g", {})]),
    ],
)
def test_a_sum_is_read(text: str, expected: list[tuple[float, str, dict[str, Any]]]) -> None:
    assert [(w, s.name, s.kwargs) for w, s in parse_sum(text)] == expected


def test_a_sum_may_name_other_modules() -> None:
    assert parse_sum("cross_entropy + 2*my_lab.losses:Mine(a=1)")[1] == (
        2.0,
        Spec("my_lab.losses", "Mine", (), {"a": 1}),
    )


@pytest.mark.parametrize(
    "text",
    [
        "ten*dca", "*dca", "1..2*dca", "dca*2", "nan*dca", "inf*dca",
        "1e999*dca", "0x10*dca", "1e*dca", "-1*dca", "0*dca", "-0.0*dca", "1e-999*dca",
    ],
)  # fmt: skip
def test_a_bad_number_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sum(f"cross_entropy + {text}")
    assert text.split("*")[0] in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "+", "a +", "+ a", "a ++ b", "2*", "a - b", "a + 2*", "2*3*a", "2**a"]
)
def test_a_broken_sum_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_sum(text)


@pytest.mark.parametrize("text", ["mixup + mixup", "a + 2*a()", "a-b + c + a_b", "f(1) + f( 1 )"])
def test_a_term_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="stands there twice"):
        parse_sum(text)


def test_a_missing_term_is_said_to_be_missing() -> None:
    for text in ("a +", "+ a", "a ++ b", ""):
        with pytest.raises(UserError, match="expected a name on each side of "):
            parse_sum(text)


def test_a_list_is_a_sum_without_weights() -> None:
    specs = parse_list("default + early_stop(patience=3) + my_lab:Mine")
    assert [str(spec) for spec in specs] == ["default", "early_stop(patience=3)", "my_lab:Mine"]
    for text in ("2*default", "default + none", "default + default"):
        with pytest.raises(UserError):
            parse_list(text)


_WORD = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
_ARGUMENT = _WORD.filter(lambda word: not keyword.iskeyword(word) and word != "__debug__")
_SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text().filter(str.isprintable),
)
_LITERAL = st.recursive(
    _SCALAR, lambda part: st.lists(part, max_size=3) | st.tuples(part), max_leaves=5
)
_SPECS = st.builds(
    Spec,
    module=st.none() | st.lists(_WORD, min_size=1, max_size=3).map(".".join),
    name=_WORD,
    args=st.lists(_LITERAL, max_size=3).map(tuple),
    kwargs=st.dictionaries(_ARGUMENT, _LITERAL, max_size=3),
)


def _written(spec: Spec) -> str:
    """Write a spec as a person would; hyphens stand for underscores in names of ours only."""
    arguments = [repr(value) for value in spec.args]
    arguments += [f"{name}={value!r}" for name, value in spec.kwargs.items()]
    prefix = f"{spec.module}:" if spec.module else ""
    return f"{prefix}{spec.name}({', '.join(arguments)})"


@given(_SPECS)
def test_spec_survives_formatting_and_parsing(spec: Spec) -> None:
    assert parse_spec(_written(spec)) == spec
    assert parse_spec(str(spec)) == spec


@given(
    st.lists(
        st.tuples(st.floats(1e-9, 1e9), _SPECS),
        min_size=1,
        max_size=4,
        unique_by=lambda term: term[1].name,
    )
)
@example([(1.0, Spec(None, "f", ('it\'s "+" \\',), {})), (1e300, Spec(None, "g", (), {}))])
def test_a_written_sum_is_what_is_read(terms: list[tuple[float, Spec]]) -> None:
    text = " + ".join(f"{weight!r}*{_written(spec)}" for weight, spec in terms)
    assert parse_sum(text) == terms
    assert all(math.isfinite(weight) for weight, _ in parse_sum(text))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """There is no third way: no other error, and no endless search."""
    for parse in (parse_spec, parse_sum):
        with contextlib.suppress(UserError):
            assert parse(text)

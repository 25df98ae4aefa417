"""Lines of a run's record: one for each held-out part, or for the clients where there is none."""

from __future__ import annotations

from fl2ora.reporting.run_lines import RunLines


def event(source: str, number: int = 1) -> dict[str, object]:
    return {"event": "metrics", "source": source, "round": number, "accuracy": 0.5, "ece": 0.25}


def test_each_part_has_a_line_and_the_first_tells_of_the_training() -> None:
    lines = RunLines(3)
    assert lines.line_of({"event": "round-end", "loss": 0.5, "duration": 2.0}) is None
    assert lines.line_of(event("server-test/base")) == (
        " round 1/3  base  accuracy  50.00 %  ECE  25.00 %  loss 0.5000  2.0 s".lstrip()
    )
    assert lines.line_of(event("server-test/new")) == (
        "round 1/3  new  accuracy  50.00 %  ECE  25.00 %"
    )
    assert lines.line_of(event("server-test/new-calibrated")) == (
        "calibrated  new  accuracy  50.00 %  ECE  25.00 %"
    )
    assert lines.line_of(event("clients-test")) is None


def test_clients_stand_in_where_the_server_has_no_data() -> None:
    lines = RunLines(3)
    line = lines.line_of(event("clients-test", 0))
    assert line is not None
    assert line.strip() == "zero-shot  accuracy  50.00 %  ECE  25.00 %"
    for source in ("clients-test-mean", "clients-validation", "training", "clients-test-personal"):
        assert lines.line_of(event(source)) is None


def test_a_round_of_fewer_images_says_of_how_many() -> None:
    lines = RunLines(3)
    found = [
        lines.line_of({**event("server-test", number), "num_examples": images})
        for number, images in ((0, 10_000.0), (1, 1_000.0), (3, 10_000.0))
    ]
    assert [str(line).partition("25.00 %")[2] for line in found] == [
        "", "  (1,000 of 10,000 images)", "",
    ]  # fmt: skip


def test_a_part_that_is_not_calibrated_says_why() -> None:
    said = {"event": "not-calibrated", "source": "server-test/new", "reason": "other classes"}
    assert RunLines(1).line_of(said) == "  server-test/new not calibrated: other classes"


def test_who_comes_and_goes_and_why_a_run_gives_up_are_lines() -> None:
    lines = RunLines(9)
    told = [
        {"event": "client-lost", "round": 2, "client": "b"},
        {"event": "client-back", "round": 3, "client": "b"},
        {"event": "node-late", "round": 3, "client": "d"},
        {"event": "node-refused", "round": 3, "client": "c", "reason": "its rank differ"},
        {"event": "waiting", "round": 4, "online": 1, "expected": 2},
        {"event": "gave-up", "round": 3, "reason": "nobody is there"},
        {"event": "state-in-memory", "round": 1, "client": "b"},
        {"event": "measured-clients", "round": 1, "clients": ["b"]},
    ]
    assert [lines.line_of(event) for event in told] == [
        "  client b: its node went offline",
        "  client b: is back",
        "  client d: came after the run began, and takes no part in it",
        "  client c: its node is not let back: its rank differ",
        "  waiting for clients: 1 online, 2 needed",
        "  gave up after round 3: nobody is there",
        "  client b keeps its state in memory alone, not on a disk",
        None,
    ]

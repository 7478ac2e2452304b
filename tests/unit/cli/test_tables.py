"""Runs and nodes as text, at the widths of real terminals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hedgerow.cli.tables import nodes_table, run_text, runs_table, table
from hedgerow.operate import (
    FailureView,
    NodeOutcomeView,
    NodeView,
    RoundManifestView,
    RoundView,
    RunDetailView,
    RunView,
)

NOTHING = dict.fromkeys(("queued", "sent", "done", "failed", "expired", "cancelled"), 0)
NOW = 1_000_000.0
RUN = RunView(
    run_id="0123456789abcdef0123456789abcdef",
    name="a comparison of hospitals with different scanners, third attempt",
    seed=2**63,
    state="interrupted",
    message="the driver said much about what it thought had gone wrong in the hospital, " * 3,
    created_at=NOW - 90_000,
    ended_at=None,
    last_seen=NOW - 59 * 60,
    driver_connected=False,
    round=123,
    tasks=NOTHING | {"done": 1_234, "queued": 100},
)
NODE = NodeView("0123456789abcdef", "university-hospital-of-a-large-town-radiology-2", "online", NOW - 5, NOW - 1e6, 12)
ONES = [
    NodeOutcomeView("north", True, "contributed", examples=5),
    *(NodeOutcomeView(name, True, "failed", "user_error") for name in "abcdef"),
    NodeOutcomeView("late-hospital", True, "late", "late", "no answer within 60 s"),
    *(NodeOutcomeView(f"spare-{i}", False, "excluded", "not_sampled") for i in range(40)),
]
DETAIL = RunDetailView(
    RUN,
    [RoundView(2, "fit", NOTHING), RoundView(3, "fit", NOTHING | {"done": 3}), RoundView(4, "fit", NOTHING | {"sent": 7})],
    [
        FailureView("t1", NODE.name, 3, "fit", "user_error", "RuntimeError: the disk of this hospital is full\n" * 3),
        FailureView("t2", "late-hospital", 3, "fit", "cancelled", "the round's time is up"),
    ],
    3,
    123_456_789,
    [RoundManifestView(3, False, "1 of 8 updates; 4 are the quorum", {"fit": ONES, "evaluate": []})],
)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for text in (runs_table([RUN], NOW, width), nodes_table([NODE], NOW, width), run_text(DETAIL, NOW, width)):
        assert max(map(len, text.splitlines())) <= width


def test_without_a_terminal_nothing_is_cut() -> None:
    assert RUN.name in runs_table([RUN], NOW)
    assert NODE.name in nodes_table([NODE], NOW)
    assert "…" not in run_text(DETAIL, NOW)


def test_rounds_say_what_came_of_the_nodes_and_why() -> None:
    text = run_text(DETAIL, NOW)
    (over,) = [line for line in text.splitlines() if line.split()[:2] == ["3", "fit"] and "not valid" in line]
    assert over.split()[2:7] == ["8", "1", "1", "6", "40"]
    assert over.endswith(
        "not valid: 1 of 8 updates; 4 are the quorum; user_error: a, b, c and 3 more; late: late-hospital; 40 not_sampled"
    )


def test_rounds_without_a_manifest_show_their_tasks_unless_they_are_old() -> None:
    tasks = run_text(DETAIL, NOW).split("\n\n")[2]
    assert [line.split() for line in tasks.splitlines()[1:]] == [["4", "fit", "0", "7", "0", "0", "0", "0"]]
    without = run_text(replace(DETAIL, manifest=[]), NOW).split("\n\n")[1]
    assert [line.split()[0] for line in without.splitlines()[1:]] == ["2", "3", "4"]


def test_who_was_late_is_shown_as_late() -> None:
    failures = run_text(DETAIL, NOW).split("\n\n")[3].splitlines()
    assert [line.split()[3] for line in failures[1:]] == ["user_error", "late"]


def test_what_a_peer_says_cannot_move_the_cursor() -> None:
    nasty = replace(NODE, name="a\x1b[2J\nb")
    assert "\x1b" not in nodes_table([nasty], NOW)
    assert len(nodes_table([nasty], NOW).splitlines()) == 2


def test_reasons_are_told_in_full_in_a_narrow_terminal() -> None:
    text = " ".join(run_text(DETAIL, NOW, 80).split())
    assert "user_error: a, b, c and 3 more; late: late-hospital; 40 not_sampled" in text
    assert "RuntimeError: the disk of this hospital is full" in text


def test_a_column_is_not_cut_below_its_head() -> None:
    assert table(("A LONG HEAD", "N"), [("x" * 30, 1)], width=5, gives_way=(0,)).splitlines()[0] == "A LONG HEAD  N"

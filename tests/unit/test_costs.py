"""The guard for a round's costs tells growth from noise, and says what grew, by how much, and where the numbers stand."""

from __future__ import annotations

import pytest

from hedgerow.copies import POINTS, copied, read_copies
from tests.acceptance.costs import EXPECTED, SLACK, grown, shrunk

JOB = "large model"


def test_a_job_that_costs_what_is_expected_has_not_grown() -> None:
    assert grown(JOB, EXPECTED[JOB], EXPECTED[JOB]) == []
    assert shrunk(EXPECTED[JOB], EXPECTED[JOB]) == []


@pytest.mark.parametrize("name", EXPECTED[JOB])
def test_one_more_of_anything_is_growth(name: str) -> None:
    more = SLACK["memory"] + 1 if name.startswith("memory") else 1
    found = {**EXPECTED[JOB], name: EXPECTED[JOB][name] + more}
    (sentence,) = grown(JOB, found, EXPECTED[JOB])
    assert f'"{name}"' in sentence
    assert f"({more:g} more)" in sentence
    assert "tests/acceptance/costs.py" in sentence


@pytest.mark.parametrize("name", ["calls: Driver Anything", "copies: blob hashed here (driver)", "memory: MB more of the link"])
def test_what_is_not_in_the_table_must_not_happen(name: str) -> None:
    assert len(grown(JOB, {name: 10.0}, EXPECTED[JOB])) == 1


def test_all_copies_of_the_table_are_points_that_the_code_names() -> None:
    named = {name.removeprefix("copies: ").rpartition(" (")[0] for job in EXPECTED.values() for name in job if "copies" in name}
    assert named <= set(POINTS)


def test_copies_are_added_up_by_process_and_point(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("hedgerow.copies._FOLDER", str(tmp_path))
    monkeypatch.setattr("os.getpid", lambda: 7)
    copied("blob sent", 3)
    copied("blob sent", 4)
    copied("blob received", 5)
    assert read_copies(tmp_path) == {7: {"blob sent": 7, "blob received": 5}}


def test_nobody_listens_unless_somebody_asks(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    copied("blob sent", 3)
    assert list(tmp_path.iterdir()) == []

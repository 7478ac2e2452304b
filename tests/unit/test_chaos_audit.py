"""The chaos harness finds what it looks for."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from types import ModuleType

import pytest

from tests.source_tree import ROOT


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", ROOT / "scripts" / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


EXPECTED = Counter({(1, "a", "ok"): 1})


def test_an_execution_again_is_explained_by_a_kill_between_the_starts_alone(chaos: ModuleType) -> None:
    twice = [chaos.Execution("a", 1, 10, 5.0, None), chaos.Execution("a", 1, 11, 8.0, 9.0)]
    assert chaos.repetitions(twice, [chaos.Kill("a", 6.0, 6.1)], EXPECTED) == []
    for kills in ([], [chaos.Kill("b", 6.0, 6.1)], [chaos.Kill("a", 4.0, 4.1)], [chaos.Kill("a", 8.5, 8.6)]):
        (found,) = chaos.repetitions(twice, kills, EXPECTED)
        assert "a trained twice for round 1" in found


def test_a_kill_after_the_task_was_done_explains_no_execution_again(chaos: ModuleType) -> None:
    twice = [chaos.Execution("a", 1, 10, 5.0, 6.0), chaos.Execution("a", 1, 11, 12.0, 13.0)]
    for before in (5.5, 6.5):  # while it trained; while the result was on its way to the disk
        assert chaos.repetitions(twice, [chaos.Kill("a", before, before + 0.1)], EXPECTED) == []
    (found,) = chaos.repetitions(twice, [chaos.Kill("a", 9.0, 9.1)], EXPECTED)
    assert "no kill explains it" in found


def test_each_execution_again_needs_a_kill_of_its_own(chaos: ModuleType) -> None:
    thrice = [chaos.Execution("a", 1, pid, started, None) for pid, started in ((10, 5.0), (11, 8.0), (12, 11.0))]
    assert len(chaos.repetitions(thrice, [chaos.Kill("a", 6.0, 6.1)], EXPECTED)) == 1
    assert chaos.repetitions(thrice, [chaos.Kill("a", 6.0, 6.1), chaos.Kill("a", 9.0, 9.1)], EXPECTED) == []


def test_a_task_that_was_never_or_wrongly_executed_is_found(chaos: ModuleType) -> None:
    (found,) = chaos.repetitions([], [], EXPECTED)
    assert "(1, 'a')" in found
    (found,) = chaos.repetitions([chaos.Execution("b", 1, 1, 1.0, 2.0)], [], Counter())
    assert "(1, 'b')" in found


def test_a_seed_stands_for_the_same_faults_each_time_and_for_each_kind_as_many(chaos: ModuleType) -> None:
    settings = chaos.Settings(7, 60, 8, 20, 0.5, 1.0)
    faults = chaos.plan(settings)
    assert faults == chaos.plan(settings)
    assert faults != chaos.plan(chaos.Settings(8, 60, 8, 20, 0.5, 1.0))
    kinds = Counter(fault.kind for fault in faults)
    assert set(kinds) >= set(chaos.KINDS)
    assert min(kinds.values()) >= 60 // len(kinds)
    assert {fault.round for fault in faults} <= set(range(1, 20))

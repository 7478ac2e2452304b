"""Sampling follows from the seed; waiting is woken by clients that come."""

from __future__ import annotations

import logging

import pytest

from hedgerow.driver import SimpleClientManager
from hedgerow.errors import RunEnded, WaitTimeout
from hedgerow.strategy import ClientProxy, Criterion
from tests.unit.driver.fakes import FakeClient, waiting


def manager(*names: str, wait_for_clients_s: float = 10.0) -> SimpleClientManager:
    m = SimpleClientManager(wait_for_clients_s)
    for name in names:
        m.register(FakeClient(name))
    return m


def choices(m: SimpleClientManager, seed: int, round: int) -> list[list[str]]:
    m.start_round(round, seed)
    return [[client.cid for client in m.sample(3)] for _ in range(4)]


NAMES = [f"site{i:02d}" for i in range(20)]


def test_same_seed_gives_the_same_samples_whoever_came_first() -> None:
    assert choices(manager(*NAMES), 5, 2) == choices(manager(*reversed(NAMES)), 5, 2)


def test_samples_differ_by_seed_round_and_turn() -> None:
    m = manager(*NAMES)
    samples = [tuple(s) for seed in (1, 2) for round in (1, 2) for s in choices(m, seed, round)]
    assert len(set(samples)) > len(samples) // 2


def test_round_that_is_started_again_chooses_again_the_same() -> None:
    m = manager(*NAMES)
    assert choices(m, 1, 3) == choices(m, 1, 3)


def test_sample_is_ordered_by_name() -> None:
    m = manager(*NAMES)
    for sample in choices(m, 0, 1):
        assert sample == sorted(sample)
    assert list(m.all()) == NAMES


def test_clients_are_the_available_ones_and_changing_what_was_given_changes_nothing() -> None:
    m = manager("b", "a")
    m.clients.clear()
    assert list(m.clients) == ["a", "b"]


def test_client_of_the_same_name_is_refused() -> None:
    m = manager("a")
    assert not m.register(FakeClient("a"))
    m.unregister(FakeClient("a"))
    m.unregister(FakeClient("a"))
    assert m.num_available() == len(m) == 0


class OnlyA(Criterion):
    def select(self, client: ClientProxy) -> bool:
        return client.cid.startswith("a")


def test_criterion_restricts_the_choice() -> None:
    m = manager("a1", "b1", "a2", "b2")
    assert [c.cid for c in m.sample(2, criterion=OnlyA())] == ["a1", "a2"]


def test_too_few_that_fulfil_the_criterion_give_an_empty_sample(caplog: pytest.LogCaptureFixture) -> None:
    assert manager("a1", "b1").sample(2, criterion=OnlyA()) == []
    assert "number of available clients (1) is less than number of requested clients (2)" in caplog.text


def test_sampling_waits_for_clients_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    m = manager("a")
    with waiting(m._condition, lambda: m.sample(1, min_num_clients=2)) as reader:
        assert "Waiting for 2 clients to be available (now 1: a), for up to 10 s (wait_for_clients_s)" in caplog.text
        m.register(FakeClient("b"))
        assert len(reader.result()) == 1


def test_waiting_has_a_limit_that_the_error_names() -> None:
    m = manager("a", wait_for_clients_s=0.0)
    with pytest.raises(WaitTimeout, match=r"wait_for_clients_s.*2 clients.*There are 1: a"):
        m.sample(2)
    assert not m.wait_for(2)
    assert not m.wait_for(2, 0)
    assert m.wait_for(1)


def test_who_waits_for_clients_learns_that_the_run_has_ended() -> None:
    m = manager()
    with waiting(m._condition, lambda: m.sample(1)) as reader:
        m.abort(RunEnded("stopped"))
        with pytest.raises(RunEnded):
            reader.result()

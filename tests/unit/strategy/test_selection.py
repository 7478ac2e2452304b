"""Selections: who is chosen, again and again the same ones for the same round."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest

from hedgerow.driver import SimpleClientManager
from hedgerow.errors import InvalidArgument, TaskFailed
from hedgerow.records import Code, GetPropertiesIns, GetPropertiesRes, Properties, Status
from hedgerow.strategy import ClientProxy, Criterion, FedAvg, FedAvgM
from hedgerow.strategy.selection import Count, Fraction, PropertyCriterion, RoundRobin, Selecting, Selection
from tests.unit.driver.fakes import OK, FakeClient, model


class Site(FakeClient):
    """Tells its properties and counts how often it was asked."""

    def __init__(self, cid: str, answer: Properties | Exception | None) -> None:
        super().__init__(cid)
        self.answer: Properties | Exception | None = answer
        self.asked: list[Any] = []

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None) -> GetPropertiesRes:
        self.asked.append((ins.config, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            return GetPropertiesRes(Status(Code.GET_PROPERTIES_NOT_IMPLEMENTED, ""), {})
        return GetPropertiesRes(OK, self.answer)


class Odd(Criterion):
    def select(self, client: ClientProxy) -> bool:
        return int(client.cid[1:]) % 2 == 1


def manager(count: int = 10, sites: tuple[Site, ...] = ()) -> SimpleClientManager:
    made = SimpleClientManager(wait_for_clients_s=0.0)
    for client in sites or [FakeClient(f"c{i:02d}") for i in range(count)]:
        made.register(client)
    return made


def chosen(selection: Selection, server_round: int, clients: SimpleClientManager, seed: int = 1) -> list[str]:
    clients.start_round(server_round, seed)
    return [client.cid for client in selection.choose(server_round, clients)]


@pytest.mark.parametrize(
    ("fraction", "minimum", "expected"), [(0.5, 1, 5), (0.59, 1, 5), (0.0, 0, 0), (0.01, 3, 3), (1.0, 1, 10)]
)
def test_fraction_is_rounded_down_and_has_a_minimum(fraction: float, minimum: int, expected: int) -> None:
    assert len(chosen(Fraction(fraction, minimum=minimum), 1, manager())) == expected


def test_fraction_is_one_of_those_who_may_be_chosen() -> None:
    assert len(chosen(Fraction(0.4, criterion=Odd()), 1, manager())) == 2


def test_count_that_is_not_there_chooses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(Count(11), 1, manager()) == []
    assert "Sampling failed" in caplog.text


@pytest.mark.parametrize("selection", [Fraction(0.4), Count(3), Count(3, criterion=Odd()), RoundRobin(3)])
def test_choice_follows_from_round_and_seed_alone(selection: Selection) -> None:
    rounds = [chosen(selection, number, manager(), seed=5) for number in range(1, 9)]
    assert [chosen(selection, number, manager(), seed=5) for number in (8, 3, 1)] == [rounds[7], rounds[2], rounds[0]]
    assert len({tuple(names) for names in rounds}) > 2
    assert all(names == sorted(names) for names in rounds)


def test_chance_is_the_runs() -> None:
    assert len({tuple(chosen(Count(3), 1, manager(), seed)) for seed in range(9)}) > 2


def test_round_robin_gives_everybody_the_same_number_of_turns() -> None:
    turns = Counter(name for number in range(1, 11) for name in chosen(RoundRobin(3), number, manager()))
    assert set(turns.values()) == {3}
    assert chosen(RoundRobin(3), 1, manager()) == ["c00", "c01", "c02"]
    assert chosen(RoundRobin(3), 4, manager()) == ["c00", "c01", "c09"]
    assert chosen(RoundRobin(20), 2, manager(4)) == ["c00", "c01", "c02", "c03"]
    assert chosen(RoundRobin(2), 1, manager(0)) == []


def test_clients_are_selected_by_what_they_tell() -> None:
    sites = (Site("a", {"examples": 10, "country": "de"}), Site("b", {"examples": 999, "country": "fr"}), Site("c", {}))
    clients = manager(sites=sites)
    big = PropertyCriterion(lambda properties: int(properties.get("examples", 0)) > 100, config={"of": "data"}, timeout=5.0)
    assert chosen(Fraction(1.0, criterion=big), 1, clients) == ["b"]
    assert sites[0].asked == [({"of": "data"}, 5.0)]
    assert chosen(Fraction(1.0, criterion=PropertyCriterion({"country": "de", "examples": 10})), 1, clients) == ["a"]


def test_clients_are_asked_once() -> None:
    site = Site("a", {"x": 1})
    criterion = PropertyCriterion({"x": 1})
    assert [chosen(Count(1, criterion=criterion), number, manager(sites=(site,))) for number in (1, 2)] == [["a"], ["a"]]
    assert len(site.asked) == 1


@pytest.mark.parametrize("answer", [None, TaskFailed("away", node="a", kind="get_properties", reason="node_lost")])
def test_client_that_does_not_tell_is_not_selected_and_asked_again(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    site = Site("a", answer)
    criterion = PropertyCriterion({})
    assert not criterion.select(site)
    assert "a is not selected" in caplog.text
    site.answer = {}
    assert criterion.select(site)


def test_strategy_asks_those_who_are_chosen() -> None:
    strategy = Selecting(
        FedAvg(min_available_clients=2, on_fit_config_fn=lambda r: {"round": r}),
        fit=RoundRobin(4),
        evaluate=Count(1, criterion=Odd()),
    )
    clients = manager()
    clients.start_round(2, 1)
    fits = strategy.configure_fit(2, model(0.0), clients)
    assert [client.cid for client, _ in fits] == ["c04", "c05", "c06", "c07"]
    assert fits[0][1].config == {"round": 2}
    ((evaluator, _),) = strategy.configure_evaluate(2, model(0.0), clients)
    assert Odd().select(evaluator)


def test_what_has_no_selection_is_left_to_the_strategy() -> None:
    clients = manager()
    pairs = []
    for strategy in (Selecting(FedAvg(fraction_fit=0.3)), FedAvg(fraction_fit=0.3)):
        clients.start_round(1, 3)
        pairs.append([client.cid for client, _ in strategy.configure_fit(1, model(0.0), clients)])
    assert pairs[0] == pairs[1]


def test_state_is_that_of_the_strategy_inside() -> None:
    strategy, other = (Selecting(FedAvgM(server_momentum=0.5), fit=Count(2)) for _ in range(2))
    clients = manager(2)
    for made in (strategy, other):
        made.load_state_dict({"FedAvgM": {"velocity": model(1.0)}})
        made.configure_fit(1, model(0.0), clients)
    assert strategy.state_dict()["FedAvgM"]["velocity"]["w"].tolist() == [1.0]
    with pytest.raises(InvalidArgument, match="FedAvgM"):
        Selecting(FedAvg()).load_state_dict(strategy.state_dict())
    np.testing.assert_equal(other.state_dict()["FedAvgM"]["velocity"]["w"], strategy.state_dict()["FedAvgM"]["velocity"]["w"])


@pytest.mark.parametrize(
    "make",
    [lambda: Fraction(1.1), lambda: Fraction(-0.1), lambda: Fraction(0.5, minimum=-1), lambda: Count(0), lambda: RoundRobin(0)],
)
def test_values_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()

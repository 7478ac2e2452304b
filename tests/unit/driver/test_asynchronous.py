"""The rounds of an asynchronous run, over flights without any network."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hedgerow.aggregation import UpdateSpec
from hedgerow.driver import Callback, RoundEnd, Server, SimpleClientManager
from hedgerow.driver.asynchronous import AsynchronousRounds, Flight, Landing, SpecOf
from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.driver.results import Measure
from hedgerow.errors import TaskFailed, WaitTimeout
from hedgerow.records import FitIns, FitRes, Parameters
from hedgerow.strategy import ClientProxy, FedBuff
from tests.unit.driver.fakes import FakeClient, FakeExchange, fitted, model


class FakeFlights:
    """Lands what is under way in the order of the sends, but a client of ``slow`` only when nobody else is under way."""

    def __init__(self, slow: Sequence[str] = ()) -> None:
        self.sent: list[tuple[int, str]] = []
        self.taken_up: list[Any] = []
        self.come: deque[FakeClient] = deque()
        self._slow = slow
        self._open: list[Flight] = []

    def __len__(self) -> int:
        return len(self._open)

    @property
    def pending(self) -> list[tuple[int, str]]:
        return sorted((flight.round, flight.key) for flight in self._open)

    @property
    def oldest_round(self) -> int | None:
        return min((flight.round for flight in self._open), default=None)

    def busy(self) -> set[str]:
        return {flight.client.cid for flight in self._open}

    def send(self, server_round: int, client: ClientProxy, ins: FitIns, spec: UpdateSpec, timeout: float | None) -> None:
        assert client.cid not in self.busy(), "a client has one task at most"
        self._open.append(Flight(client, ins, server_round, f"fit-{len(self.sent)}", spec))
        self.sent.append((server_round, client.cid))

    def take_up(
        self, pending: Sequence[tuple[int, str]], next_round: int, current: Parameters, spec_of: SpecOf, timeout: float | None
    ) -> None:
        self.taken_up.append((list(pending), next_round))

    def next(self) -> Landing | None:
        assert self._open, "it would wait for ever"
        flight = next((one for one in self._open if one.client.cid not in self._slow), self._open[0])
        self._open.remove(flight)
        answer: FitRes | Exception
        try:
            answer = flight.client.fit(flight.ins, None)
        except TaskFailed as error:
            answer = error
        return Landing(flight, answer, Measure(4, 0.5), len(self.sent))

    def cancel_all(self) -> list[Flight]:
        flights, self._open = self._open, []
        return flights


def manager(*clients: FakeClient) -> SimpleClientManager:
    made = SimpleClientManager(wait_for_clients_s=0.0)
    for client in clients:
        made.register(client)
    return made


def broken(name: str) -> FakeClient:
    return FakeClient(name, TaskFailed("no memory", node=name, kind="fit", reason="user_error"))


def strategy(**options: Any) -> FedBuff:
    return FedBuff(**{"buffer_size": 2, "concurrency": 3, "min_available_clients": 1, **options})


def rounds(made: FedBuff, flights: FakeFlights, *clients: FakeClient) -> AsynchronousRounds:
    return AsynchronousRounds(made, manager(*clients), flights)


def outcomes(entries: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(entry["node"], entry["outcome"], entry.get("reason", "")) for entry in entries]


def test_a_version_is_made_of_as_many_updates_as_the_buffer_holds_while_others_are_still_under_way() -> None:
    flights = FakeFlights(slow=["slow"])
    made = rounds(strategy(), flights, *(FakeClient(name, fitted(3.0)) for name in ("a", "b", "slow")))
    version = made.make_version(1, model(1.0), None)
    assert version.parameters is not None
    np.testing.assert_array_equal(version.parameters["w"], np.array([3.0], np.float32))
    assert sorted(name for name, outcome, _ in outcomes(version.entries) if outcome == "contributed") == ["a", "b"]
    assert "slow" in flights.busy()
    assert not version.failures
    assert version.reason == ""


def test_an_update_knows_how_many_versions_the_model_has_got_further() -> None:
    flights = FakeFlights(slow=["slow"])
    made = rounds(strategy(buffer_size=1, concurrency=2), flights, FakeClient("a", fitted(2.0)), FakeClient("slow", fitted(2.0)))
    entries = [entry for r in (1, 2, 3) for entry in made.make_version(r, model(1.0), None).entries]
    assert {(e["from_round"], e["staleness"]) for e in entries if e["asked"]} == {(1, 0), (2, 0), (3, 0)}
    flights._slow = ["a"]
    (stale,) = [entry for entry in made.make_version(4, model(1.0), None).entries if entry["asked"]]
    assert (stale["node"], stale["from_round"], stale["staleness"]) == ("slow", 1, 3)


def test_a_stale_update_is_told_and_does_not_fill_the_buffer() -> None:
    flights = FakeFlights(slow=["slow"])
    clients = FakeClient("a", fitted(2.0)), FakeClient("slow", fitted(2.0))
    made = rounds(strategy(buffer_size=1, concurrency=2, max_staleness=0), flights, *clients)
    made.make_version(1, model(1.0), None)
    flights._slow = ["a"]
    version = made.make_version(2, model(1.0), None)
    assert outcomes(version.entries)[0] == ("slow", "excluded", "stale")
    assert [outcome for _, outcome, _ in outcomes(version.entries)].count("contributed") == 1


def test_a_client_that_fails_is_not_asked_again_in_the_same_round() -> None:
    flights = FakeFlights()
    made = rounds(strategy(buffer_size=3), flights, FakeClient("a", fitted(2.0)), broken("b"))
    version = made.make_version(1, model(1.0), None)
    assert [name for _, name in flights.sent].count("b") == 1
    assert [(f.kind, f.node, f.reason) for f in version.failures] == [("fit", "b", "user_error")]
    assert ("b", "failed", "user_error") in outcomes(version.entries)
    made.make_version(2, model(1.0), None)
    assert [name for _, name in flights.sent].count("b") == 2, "it has another chance in the next round"


def test_a_round_in_which_everybody_fails_ends_without_a_new_version_and_without_its_updates() -> None:
    flights = FakeFlights(slow=["b"])
    flaky = FakeClient("a", fitted(2.0))
    made = strategy(buffer_size=2, concurrency=2)
    r = rounds(made, flights, flaky, broken("b"))
    original = flaky.fit

    def once(ins: FitIns, timeout: float | None) -> FitRes:
        res = original(ins, timeout)
        flaky.answers["fit"] = TaskFailed("gone", node="a", kind="fit", reason="node_lost")
        return res

    flaky.fit = once  # type: ignore[method-assign]
    version = r.make_version(1, model(1.0), None)
    assert version.parameters is None
    assert "1 came" in version.reason
    assert ("a", "excluded", "round_not_valid") in outcomes(version.entries)
    assert len(made._deltas) == 0


def test_too_few_clients_are_an_error() -> None:
    with pytest.raises(WaitTimeout, match="2 clients"):
        rounds(strategy(min_available_clients=2), FakeFlights(), FakeClient("a", fitted(1.0))).make_version(1, model(1.0), None)


class AsynchronousExchange(FakeExchange):
    def __init__(self) -> None:
        super().__init__()
        self.fake_flights = FakeFlights(slow=["slow"])
        self.released: list[int | None] = []

    @property
    def flights(self) -> FakeFlights:
        return self.fake_flights

    def finish_round(self, server_round: int, manifest: str = "", oldest_open: int | None = None) -> None:
        super().finish_round(server_round, manifest, oldest_open)
        self.released.append(oldest_open)


class Kept:
    def __init__(self) -> None:
        self.checkpoints: list[Checkpoint] = []

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        self.checkpoints.append(checkpoint)
        kept()

    def settle(self) -> None:
        pass


def test_rounds_of_a_run_keep_what_is_under_way_until_the_run_is_over() -> None:
    exchange, kept = AsynchronousExchange(), Kept()
    clients = manager(*(FakeClient(name, fitted(3.0)) for name in ("a", "b", "slow")))
    server = Server(client_manager=clients, strategy=strategy(initial_parameters=model(1.0)))
    server.attach(exchange, kept)
    server.fit(num_rounds=2, timeout=None)
    assert exchange.fake_flights.taken_up == [([], 1)]
    assert exchange.released == [None, 1, None], "the slow client's round is not released before the run is over"
    _, first, last = kept.checkpoints
    assert {server_round for server_round, _ in first.pending} == {1}
    assert first.cursor == 4, "up to the answer that filled the buffer"
    assert last.pending == []
    manifest = json.loads(exchange.manifests[-1])
    left = [(e["node"], e["from_round"]) for e in manifest["fit"] if e.get("reason") == "run_over"]
    assert ("slow", 1) in left


def test_a_run_that_a_callback_ends_waits_for_nobody() -> None:
    class Enough(Callback):
        def on_round_end(self, end: RoundEnd) -> str | None:
            return "enough" if end.server_round == 1 else None

    exchange = AsynchronousExchange()
    clients = manager(*(FakeClient(name, fitted(3.0)) for name in ("a", "b", "slow")))
    server = Server(client_manager=clients, strategy=strategy(initial_parameters=model(1.0)))
    server.attach(exchange, Kept())
    server.call_back([Enough()])
    server.fit(num_rounds=9, timeout=None)
    assert exchange.rounds[-1] == "finish 1"
    assert not exchange.fake_flights


def test_a_run_that_is_taken_up_goes_on_with_what_was_under_way() -> None:
    exchange = AsynchronousExchange()
    clients = manager(*(FakeClient(name, fitted(3.0)) for name in ("a", "b")))
    server = Server(client_manager=clients, strategy=strategy())
    server.attach(exchange)
    done = Checkpoint(4, model(2.0), "FedBuff", {}, server.history.state_dict(), "{}", cursor=17, pending=[(3, "fit-000001")])
    server.take_up(done)
    server.fit(num_rounds=5, timeout=None)
    assert exchange.fake_flights.taken_up == [([(3, "fit-000001")], 5)]
    assert exchange.released == [3, None]

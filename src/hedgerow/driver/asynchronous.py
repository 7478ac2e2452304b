"""The rounds of an asynchronous run: each makes one version of the model, and waits for nobody in particular.

Owned here: who is given work, what becomes of each answer, and what the manifest says of it. How tasks travel is the business of
:class:`Flights`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.driver.answers import reason_of
from hedgerow.driver.history import NodeFailure
from hedgerow.driver.manifest import NOT_VALID, RUN_OVER, STALE, NodeEntry, answer_entry, not_asked_entries
from hedgerow.driver.results import Failed, Measure
from hedgerow.records import FitIns, FitRes, Kind, Metrics, Parameters
from hedgerow.strategy.asynchronous import AsynchronousStrategy, Idle, Update
from hedgerow.strategy.clients import ClientManager, ClientProxy, wait_for_clients

log = logging.getLogger(__name__)

SpecOf: TypeAlias = Callable[[int, FitIns], UpdateSpec]


@dataclass(frozen=True, slots=True)
class Flight:
    """A task under way.

    Attributes:
        client: Who trains.
        ins: What it was asked; its parameters are the model that it started from.
        round: The round in which it was sent.
        key: Its number in that round, as a word.
        spec: What its answer must look like.
    """

    client: ClientProxy
    ins: FitIns
    round: int
    key: str
    spec: UpdateSpec


@dataclass(frozen=True, slots=True)
class Landing:
    """A flight's end: its result, or why there is none. The cursor is its place among all answers of the run."""

    flight: Flight
    answer: FitRes | Exception
    measure: Measure
    cursor: int


class Flights(Protocol):
    """All tasks of a run that are under way."""

    def __len__(self) -> int: ...

    @property
    def pending(self) -> list[tuple[int, str]]:
        """Round and key of each."""

    @property
    def oldest_round(self) -> int | None:
        """The first round of which a task is under way."""

    def busy(self) -> set[str]:
        """Names of the clients that are at work."""

    def send(self, server_round: int, client: ClientProxy, ins: FitIns, spec: UpdateSpec, timeout: float | None) -> None:
        """Let one client train, for at most ``timeout`` seconds."""

    def take_up(
        self, pending: Sequence[tuple[int, str]], next_round: int, current: Parameters, spec_of: SpecOf, timeout: float | None
    ) -> None:
        """Take up what an earlier process of the run has sent."""

    def next(self) -> Landing | None:
        """The next answer; None when clients have come or gone."""

    def cancel_all(self) -> list[Flight]:
        """End everything that is under way; returns it."""


@dataclass
class Version:
    """How a version of the model was made, or why it was not.

    Attributes:
        parameters: The new model; None if there is none.
        metrics: Of the training.
        entries: What came of each task that ended, for the manifest.
        failures: Tasks that ended without a result.
        reason: Why there is no new model; "" if there is.
    """

    parameters: Parameters | None = None
    metrics: Metrics = field(default_factory=dict)
    entries: list[NodeEntry] = field(default_factory=list)
    failures: list[NodeFailure] = field(default_factory=list)
    reason: str = ""


class AsynchronousRounds:
    """Makes versions of the model, one after the other.

    Args:
        strategy: What is asked of whom, and what becomes of it.
        manager: Who is available.
        flights: What is under way.

    Attributes:
        cursor: Answers up to this one are in the model, or are not used.
    """

    def __init__(self, strategy: AsynchronousStrategy, manager: ClientManager, flights: Flights, cursor: int = 0) -> None:
        self.cursor = cursor
        self.flights = flights
        self._strategy = strategy
        self._manager = manager

    def make_version(self, server_round: int, parameters: Parameters, timeout: float | None) -> Version:
        """Keep clients at work until the buffer is full, and empty it into a new version.

        A client whose task failed is given no other one in this round, so that one that always fails is not asked without end.
        When that leaves nobody, the round ends without a new version.

        Raises:
            WaitTimeout: Too few clients came.
        """
        version, resting, accepted = Version(), set[str](), 0
        while accepted < self._strategy.buffer_size:
            self._top_up(server_round, parameters, timeout, resting)
            if not self.flights and resting:
                self._strategy.discard()
                version.reason = (
                    f"of {self._strategy.buffer_size} updates that are needed {accepted} came; no client is left to ask"
                )
                for entry in version.entries:
                    if entry["outcome"] == "contributed":
                        entry |= {"outcome": "excluded", "reason": NOT_VALID}
                break
            landing = self.flights.next()
            if landing is None:
                continue
            self.cursor = landing.cursor
            accepted += self._land(server_round, landing, version)
            if isinstance(landing.answer, Exception):
                resting.add(landing.flight.client.cid)
        else:
            version.parameters, version.metrics = self._strategy.flush(server_round, parameters)
        seen = {entry["node"] for entry in version.entries} | self.flights.busy()
        version.entries += not_asked_entries(name for name in self._manager.all() if name not in seen)
        return version

    def end(self, version: Version) -> None:
        """The run is over: what is under way is not waited for."""
        for flight in self.flights.cancel_all():
            log.info("The task of %s from round %s is not waited for: the run is over", flight.client.cid, flight.round)
            version.entries.append(
                {"node": flight.client.cid, "asked": True, "outcome": "excluded", "reason": RUN_OVER, "from_round": flight.round}
            )

    def _top_up(self, server_round: int, parameters: Parameters, timeout: float | None, resting: set[str]) -> None:
        """Give work to idle clients."""
        if not self.flights:
            wait_for_clients(self._manager, self._strategy.min_available_clients)
        while len(self.flights) < self._strategy.concurrency:
            idle = Idle(self.flights.busy() | resting)
            if not any(idle.select(client) for client in self._manager.all().values()):
                return
            chosen = self._strategy.configure_task(server_round, parameters, self._manager, idle)
            if chosen is None:
                return
            client, ins = chosen
            self.flights.send(server_round, client, ins, self._strategy.update_spec(server_round, ins), timeout)

    def _land(self, server_round: int, landing: Landing, version: Version) -> bool:
        """Fold one answer, or say why not; whether it was folded."""
        flight, answer = landing.flight, landing.answer
        staleness = server_round - flight.round
        name = flight.client.cid
        if isinstance(answer, Exception):
            log.warning(
                "fit_round %s: client %s failed (%s): %s",
                server_round,
                name,
                reason_of(answer),
                answer,
                extra={"action": "client_failed", "node": name, "reason": reason_of(answer)},
            )
            version.failures.append(NodeFailure(str(Kind.FIT), name, reason_of(answer), str(answer)))
            entry = answer_entry(flight.client, Failed(flight.client, answer), landing.measure)
            folded = False
        else:
            folded = self._strategy.fold(server_round, Update(flight.client, flight.ins.parameters, answer, staleness))
            if not folded:
                log.info("fit_round %s: the update of %s is %s versions old and is not used", server_round, name, staleness)
            entry = answer_entry(flight.client, answer, landing.measure, "" if folded else STALE)
        version.entries.append(entry | {"from_round": flight.round, "staleness": staleness})
        return folded

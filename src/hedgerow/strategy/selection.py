"""Who is asked, apart from what is asked: selections that any strategy can be composed with.

::

    strategy = Selecting(FedAdam(min_available_clients=10), fit=Fraction(0.2, minimum=2), evaluate=RoundRobin(3))

Owned here: the selections. They keep nothing from round to round: what a selection gives follows from the round and the clients
that are available, and chance comes from the client manager, which is seeded by the run. So a run that is taken up again
chooses as it would have.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from hedgerow.errors import InvalidArgument, PeerError
from hedgerow.records import Code, Config, EvaluateIns, FitIns, GetPropertiesIns, Parameters, Properties, Scalar
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.composition import Composed
from hedgerow.strategy.strategy import Strategy

log = logging.getLogger(__name__)


class Selection(ABC):
    """Chooses clients.

    Args:
        criterion: Only clients that it selects are chosen.
    """

    def __init__(self, criterion: Criterion | None = None) -> None:
        self.criterion = criterion

    def candidates(self, client_manager: ClientManager) -> list[ClientProxy]:
        """Those who may be chosen, in the order of their names."""
        clients = client_manager.all().values()
        return [client for client in clients if self.criterion is None or self.criterion.select(client)]

    @abstractmethod
    def choose(self, server_round: int, client_manager: ClientManager) -> list[ClientProxy]:
        """The clients of this round, in the order of their names; none where there are too few."""


class Fraction(Selection):
    """A part of those who may be chosen, at random.

    Args:
        fraction: The part, from 0 to 1; it is rounded down.
        minimum: At least so many.
        criterion: Only clients that it selects are chosen.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    def __init__(self, fraction: float, *, minimum: int = 1, criterion: Criterion | None = None) -> None:
        super().__init__(criterion)
        if not 0 <= fraction <= 1 or minimum < 0:
            raise InvalidArgument(f"fraction is {fraction} and minimum {minimum}; give 0 to 1, and 0 or more.")
        self.fraction = fraction
        self.minimum = minimum

    def choose(self, server_round: int, client_manager: ClientManager) -> list[ClientProxy]:
        """So large a part of the candidates."""
        candidates = self.candidates(client_manager)
        return _some(client_manager, candidates, max(int(len(candidates) * self.fraction), self.minimum))


class Count(Selection):
    """So many of those who may be chosen, at random.

    Args:
        count: How many, at least 1.
        criterion: Only clients that it selects are chosen.

    Raises:
        InvalidArgument: The count is out of its range.
    """

    def __init__(self, count: int, *, criterion: Criterion | None = None) -> None:
        super().__init__(criterion)
        self.count = _checked(count)

    def choose(self, server_round: int, client_manager: ClientManager) -> list[ClientProxy]:
        """So many of the candidates."""
        return _some(client_manager, self.candidates(client_manager), self.count)


class RoundRobin(Selection):
    """One after the other: with the candidates in the order of their names, round r gets those from place (r - 1) count on.

    Everybody's turn comes as often as everybody else's while the candidates stay the same.

    Args:
        count: How many in a round, at least 1. Where there are fewer candidates, all of them.
        criterion: Only clients that it selects are chosen.

    Raises:
        InvalidArgument: The count is out of its range.
    """

    def __init__(self, count: int, *, criterion: Criterion | None = None) -> None:
        super().__init__(criterion)
        self.count = _checked(count)

    def choose(self, server_round: int, client_manager: ClientManager) -> list[ClientProxy]:
        """The candidates whose turn it is."""
        candidates = self.candidates(client_manager)
        first = (server_round - 1) * self.count
        places = {(first + i) % len(candidates) for i in range(min(self.count, len(candidates)))}
        return [client for place, client in enumerate(candidates) if place in places]


class PropertyCriterion(Criterion):
    """Selects by what clients tell of themselves in ``get_properties``.

    Each client is asked once; its answer is remembered while the driver lives. A client that does not answer, or knows no such
    method, is not selected, and asked again the next time.

    Args:
        wanted: A function of the properties that says whether a client is selected; or properties that must have these values.
        config: What the clients are asked with.
        timeout: Seconds that each has for its answer; None for as long as it takes.

    >>> big = PropertyCriterion(lambda properties: int(properties["examples"]) >= 1000)
    >>> german = PropertyCriterion({"country": "de"})
    """

    def __init__(
        self,
        wanted: Callable[[Properties], bool] | Mapping[str, Scalar],
        *,
        config: Config | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        self._wanted = wanted
        self._config: Config = dict(config or {})
        self._timeout = timeout
        self._known: dict[str, Properties] = {}

    def select(self, client: ClientProxy) -> bool:
        """Whether the client's properties are those that are wanted."""
        properties = self._known.get(client.cid)
        if properties is None:
            properties = self._ask(client)
            if properties is None:
                return False
            self._known[client.cid] = properties
        if callable(self._wanted):
            return bool(self._wanted(properties))
        return all(name in properties and properties[name] == value for name, value in self._wanted.items())

    def _ask(self, client: ClientProxy) -> Properties | None:
        try:
            res = client.get_properties(GetPropertiesIns(dict(self._config)), self._timeout)
        except PeerError as error:
            log.warning("%s is not selected, it did not tell its properties: %s", client.cid, error)
            return None
        if res.status.code is not Code.OK:
            log.warning("%s is not selected, it has no get_properties", client.cid)
            return None
        return res.properties


class Selecting(Composed):
    """A strategy whose clients are chosen by selections.

    The strategy inside decides everything else. When it samples from its client manager, it gets what the selection chooses,
    however many it asked for; how many clients must be available first is still its ``min_available_clients``.

    Args:
        strategy: The strategy inside.
        fit: Who trains; None to leave it to the strategy.
        evaluate: Who evaluates; None to leave it to the strategy.
    """

    def __init__(self, strategy: Strategy, *, fit: Selection | None = None, evaluate: Selection | None = None) -> None:
        super().__init__(strategy)
        self._fit = fit
        self._evaluate = evaluate

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """What the strategy asks, of those that are chosen."""
        return super().configure_fit(server_round, parameters, _view(client_manager, self._fit, server_round))

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """What the strategy asks, of those that are chosen."""
        return super().configure_evaluate(server_round, parameters, _view(client_manager, self._evaluate, server_round))


class _Names(Criterion):
    """Selects clients by name."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def select(self, client: ClientProxy) -> bool:
        return client.cid in self._names


class _View(ClientManager):
    """A client manager whose samples are those of a selection."""

    def __init__(self, manager: ClientManager, selection: Selection, server_round: int) -> None:
        self._manager = manager
        self._selection = selection
        self._round = server_round

    def num_available(self) -> int:
        return self._manager.num_available()

    def register(self, client: ClientProxy) -> bool:
        return self._manager.register(client)

    def unregister(self, client: ClientProxy) -> None:
        self._manager.unregister(client)

    def all(self) -> dict[str, ClientProxy]:
        return self._manager.all()

    def wait_for(self, num_clients: int, timeout: int = 86400) -> bool:
        return self._manager.wait_for(num_clients, timeout)

    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        if min_num_clients is not None and not self._manager.wait_for(min_num_clients):
            return []
        chosen = self._selection.choose(self._round, self._manager)
        return [client for client in chosen if criterion is None or criterion.select(client)]


def _view(manager: ClientManager, selection: Selection | None, server_round: int) -> ClientManager:
    return manager if selection is None else _View(manager, selection, server_round)


def _some(manager: ClientManager, candidates: list[ClientProxy], count: int) -> list[ClientProxy]:
    """So many of the candidates, chosen by the client manager."""
    names = frozenset(client.cid for client in candidates)
    return manager.sample(count, 0, _Names(names)) if count else []


def _checked(count: int) -> int:
    if count < 1:
        raise InvalidArgument(f"count is {count}; it must be at least 1.")
    return count

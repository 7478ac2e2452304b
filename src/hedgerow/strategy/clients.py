"""What a strategy sees of the clients: proxies to call, a manager to sample from, a criterion to sample by.

These are the seams between strategies and whatever carries their instructions out (a driver over a network, a simulation, a
fake in a test).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from hedgerow.errors import WaitTimeout
from hedgerow.records import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Properties,
)


class ClientProxy(ABC):
    """One client, as a strategy sees it.

    Each method hands one instruction to the client and waits for its answer, for at most ``timeout`` seconds where that is given.

    Attributes:
        cid: The client's name, unique among the clients.
        properties: A place for the strategy's own notes about the client.
    """

    def __init__(self, cid: str) -> None:
        self.cid = cid
        self.properties: Properties = {}

    @abstractmethod
    def get_properties(self, ins: GetPropertiesIns, timeout: float | None) -> GetPropertiesRes:
        """Ask the client for its properties."""

    @abstractmethod
    def get_parameters(self, ins: GetParametersIns, timeout: float | None) -> GetParametersRes:
        """Ask the client for its parameters."""

    @abstractmethod
    def fit(self, ins: FitIns, timeout: float | None) -> FitRes:
        """Let the client train."""

    @abstractmethod
    def evaluate(self, ins: EvaluateIns, timeout: float | None) -> EvaluateRes:
        """Let the client evaluate."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cid!r})"


class Criterion(ABC):
    """Says which clients may be sampled."""

    @abstractmethod
    def select(self, client: ClientProxy) -> bool:
        """Whether this client may be sampled."""


class ClientManager(ABC):
    """Knows the clients that are available, and samples from them."""

    @abstractmethod
    def num_available(self) -> int:
        """How many clients are available now."""

    @abstractmethod
    def register(self, client: ClientProxy) -> bool:
        """Add a client that has become available; False if one of that name is there already."""

    @abstractmethod
    def unregister(self, client: ClientProxy) -> None:
        """Remove a client that is not available any longer; nothing happens if it is not there."""

    @abstractmethod
    def all(self) -> dict[str, ClientProxy]:
        """All available clients by name, in the order of their names."""

    @abstractmethod
    def wait_for(self, num_clients: int, timeout: int = 86400) -> bool:
        """Wait until so many clients are available; False if they were not after ``timeout`` seconds."""

    @abstractmethod
    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        """Choose ``num_clients`` different clients.

        Args:
            num_clients: How many.
            min_num_clients: How many must be available before the choice is made; ``num_clients`` if not given.
            criterion: Restricts the choice.

        Returns:
            The clients in the order of their names, or none at all if too few fulfil the criterion.
        """

    def start_round(  # noqa: B027 (optional, so not abstract)
        self, server_round: int, run_seed: int
    ) -> None:
        """A round begins. Managers whose choice is seeded take the seed from here; others need not care."""

    def state_dict(self) -> dict[str, int]:
        """What the next choice of this round depends on, besides the run's seed and who is available."""
        return {}

    def load_state_dict(self, state: Mapping[str, int]) -> None:  # noqa: B027
        """Go on as a manager that had this state; the round has begun before."""

    def abort(self, error: BaseException) -> None:  # noqa: B027
        """The run cannot go on: whoever waits for clients must get this error. Managers that never wait need not care."""


def wait_for_clients(client_manager: ClientManager, count: int) -> None:
    """Wait until so many clients are available.

    Raises:
        WaitTimeout: They were not, for as long as the manager waits.
    """
    if not client_manager.wait_for(count):
        raise WaitTimeout(
            f"Waited in vain for {count} clients; {client_manager.num_available()} are available: "
            f"{', '.join(client_manager.all()) or 'none'}."
        )

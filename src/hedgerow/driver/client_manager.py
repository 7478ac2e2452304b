"""Who is available, as a strategy sees it, and the seeded choice among them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from hedgerow.errors import WaitTimeout
from hedgerow.sampling import derive_seed, sample
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.waits import Limit, wait_condition

log = logging.getLogger(__name__)

MAX_NAMES_TOLD = 20


class SimpleClientManager(ClientManager):
    """Chooses at random; the choice follows from the run's seed, the round, and the names of those who are available.

    Args:
        wait_for_clients_s: How long to wait for enough clients, in seconds.
    """

    def __init__(self, wait_for_clients_s: float = 86_400.0) -> None:
        self.wait_for_clients_s = wait_for_clients_s
        self._condition = threading.Condition()
        self._clients: dict[str, ClientProxy] = {}
        self._error: BaseException | None = None
        self._run_seed = 0
        self._round = 0
        self._samples = 0

    def __len__(self) -> int:
        return self.num_available()

    @property
    def clients(self) -> dict[str, ClientProxy]:
        """The available clients by name, in the order of their names; a new dictionary each time."""
        return self.all()

    def num_available(self) -> int:
        """How many clients are available now."""
        with self._condition:
            return len(self._clients)

    def register(self, client: ClientProxy) -> bool:
        """Add a client, and wake those who wait for it; False if one of that name is there already."""
        with self._condition:
            if client.cid in self._clients:
                return False
            self._clients[client.cid] = client
            self._condition.notify_all()
            return True

    def unregister(self, client: ClientProxy) -> None:
        """Remove a client; nothing happens if it is not there."""
        with self._condition:
            self._clients.pop(client.cid, None)

    def all(self) -> dict[str, ClientProxy]:
        """The available clients by name, in the order of their names."""
        with self._condition:
            return dict(sorted(self._clients.items()))

    def wait_for(self, num_clients: int, timeout: float | None = None) -> bool:
        """Wait until so many clients are available; ``timeout`` in seconds instead of ``wait_for_clients_s``.

        Raises:
            RunEnded: The run was ended meanwhile; and whatever else makes it impossible to go on.
        """
        limit = Limit("wait_for_clients_s", self.wait_for_clients_s if timeout is None else timeout)
        try:
            self._wait(num_clients, limit)
        except WaitTimeout as error:
            log.warning("%s", error)
            return False
        return True

    def _names(self) -> str:
        names = sorted(self._clients)
        return ", ".join([*names[:MAX_NAMES_TOLD], *(["..."] if len(names) > MAX_NAMES_TOLD else [])]) or "none"

    def _wait(self, num_clients: int, limit: Limit) -> None:
        with self._condition:
            if len(self._clients) < num_clients and self._error is None:
                log.info(
                    "Waiting for %s clients to be available (now %s: %s), for up to %g s (%s)",
                    num_clients,
                    len(self._clients),
                    self._names(),
                    limit.seconds,
                    limit.name,
                    extra={"action": "waiting_for_clients"},
                )
            try:
                wait_condition(
                    self._condition,
                    lambda: len(self._clients) >= num_clients or self._error is not None,
                    limit,
                    f"{num_clients} clients to be available",
                )
            except WaitTimeout as error:
                raise WaitTimeout(f"{error} There are {len(self._clients)}: {self._names()}.") from None
            if self._error is not None:
                raise self._error

    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        """Choose clients when enough are available; they come in the order of their names.

        Raises:
            WaitTimeout: Too few clients came within ``wait_for_clients_s``.
            RunEnded: The run was ended meanwhile.
        """
        limit = Limit("wait_for_clients_s", self.wait_for_clients_s)
        self._wait(num_clients if min_num_clients is None else min_num_clients, limit)
        candidates = [c for c in self.all().values() if criterion is None or criterion.select(c)]
        if num_clients > len(candidates):
            log.warning(
                "Sampling failed: number of available clients (%s) is less than number of requested clients (%s).",
                len(candidates),
                num_clients,
            )
            return []
        with self._condition:
            seed = derive_seed(self._run_seed, "sample", self._round, self._samples)
            self._samples += 1
        return sorted(sample(seed, candidates, num_clients), key=lambda client: client.cid)

    def start_round(self, server_round: int, run_seed: int) -> None:
        """The choices of this round follow from the run's seed and are counted from the beginning."""
        with self._condition:
            self._run_seed, self._round, self._samples = run_seed, server_round, 0

    def state_dict(self) -> dict[str, int]:
        """How many choices were made in this round."""
        with self._condition:
            return {"samples": self._samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after so many choices."""
        with self._condition:
            self._samples = state.get("samples", 0)

    def abort(self, error: BaseException) -> None:
        """The run cannot go on: whoever waits gets this error."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

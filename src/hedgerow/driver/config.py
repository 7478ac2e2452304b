"""What a run can be told: its rounds, its seed, and how long a driver waits for what."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, fields
from numbers import Integral, Real

from hedgerow.errors import ConfigError
from hedgerow.waits import Limit


@dataclass
class ServerConfig:
    """Settings of a run.

    Attributes:
        num_rounds: How many rounds; 0 only evaluates the initial parameters.
        round_timeout: Seconds that clients have for each fit and evaluate, until their answers are here; None for as long as it
            takes.
        seed: Seed of the run (64 bits, not negative): fixes who is sampled and what the clients' random generators start from.
            None for a random one, which the log tells.
        min_fit_results: The quorum of a round: so many updates make it valid, as a number of clients or (a float up to 1.0) as a
            part of those that were asked. A round that is not valid leaves the parameters and the strategy's state as they were.
        grace_s: Once as many clients have answered as the quorum says, the others have so many seconds left; who is later counts
            as late. None: everybody is waited for until ``round_timeout``.
    """

    num_rounds: int = 1
    round_timeout: float | None = None
    seed: int | None = None
    min_fit_results: int | float = 1
    grace_s: float | None = None

    def __repr__(self) -> str:
        """As the log shows it: what Flower's has, and what else is not left at its default."""
        shown = [f"{f.name}={getattr(self, f.name)!r}" for i, f in enumerate(fields(self)) if i < 3 or self._is_set(f)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _is_set(self, which: Field[object]) -> bool:
        return bool(getattr(self, which.name) != which.default)

    def quorum(self, asked: int) -> int:
        """How many of the clients that were asked must have given an update."""
        part = self.min_fit_results
        return math.ceil(part * asked) if isinstance(part, float) else part

    def check(self) -> None:
        """See whether the settings make sense.

        Raises:
            ConfigError: One does not.
        """
        if not (isinstance(self.num_rounds, Integral) and self.num_rounds >= 0):
            raise ConfigError(f"num_rounds is {self.num_rounds!r:.80}; it must be a whole number and not negative.")
        if self.round_timeout is not None and not (isinstance(self.round_timeout, Real) and self.round_timeout > 0):
            raise ConfigError(f"round_timeout is {self.round_timeout!r:.80}; give seconds, more than 0, or None for no limit.")
        part = self.min_fit_results
        if not (0 < part <= 1 if isinstance(part, float) else isinstance(part, Integral) and part >= 1):
            raise ConfigError(f"min_fit_results is {part!r:.80}; give a number of clients from 1, or a part of them up to 1.0.")
        if self.grace_s is not None and not (isinstance(self.grace_s, Real) and self.grace_s >= 0):
            raise ConfigError(f"grace_s is {self.grace_s!r:.80}; give seconds, at least 0, or None for no such limit.")
        if self.seed is not None and not (isinstance(self.seed, Integral) and 0 <= self.seed < 2**64):
            raise ConfigError(f"seed is {self.seed!r:.80}; it must be at least 0 and less than 2**64.")


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """How long a driver waits, in seconds.

    Attributes:
        connect_s: For the server, when the run begins.
        reconnect_s: For a server that has gone away during the run.
        call_s: For the answer to one call, before it is made again.
        watch_silent_s: For a sign of life in the stream of results, before it is opened again.
        wait_for_clients_s: For enough clients to be there.
        end_run_s: For the server to take note of the run's end.
    """

    connect_s: float = 600.0
    reconnect_s: float = 86_400.0
    call_s: float = 30.0
    watch_silent_s: float = 60.0
    wait_for_clients_s: float = 86_400.0
    end_run_s: float = 60.0

    def limit(self, name: str) -> Limit:
        """The limit of this name."""
        seconds: float = getattr(self, name)
        return Limit(name, seconds)

"""How many files the process may have open, and how many clients that is enough for.

Every connection is an open file. The usual limit of 1024 is a soft one, which a process may raise up to the hard one. When files
run out nothing works any longer, not even saying so. Therefore a part of them is kept for blobs, drivers and the database, the
port for clients takes no more connections than the rest, and sessions a little fewer, so that who is refused can be told why.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass

log = logging.getLogger(__name__)

ADVICE = (
    "Raise the limit for the server's process: ulimit -n in a shell, LimitNOFILE= in a systemd unit, --ulimit nofile= in Docker"
)
_LEAST_SPARE = 64
_SPARE_PART = 4
_LEAST_TOLD = 8
_TOLD_PART = 20


def raise_limit() -> int:
    """Allow as many open files as this process may; returns how many it may have open from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("Only %d files and connections can be open at once: %s", soft, error)
    return allowed()


def allowed() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True, slots=True)
class Shares:
    """What the open files are enough for.

    Attributes:
        files: How many may be open.
        connections: How many of them clients may hold.
        sessions: How many clients may have a session.
    """

    files: int
    connections: int
    sessions: int

    @classmethod
    def of(cls, files: int, max_connections: int) -> Shares:
        """Share out that many files; clients get no more than ``max_connections``.

        >>> Shares.of(1024, 20_000)
        Shares(files=1024, connections=768, sessions=730)
        """
        connections = max(1, min(max_connections, files - max(_LEAST_SPARE, files // _SPARE_PART)))
        return cls(files, connections, max(1, connections - max(_LEAST_TOLD, connections // _TOLD_PART)))

    def tell(self, nodes: int) -> None:
        """Say in the log how many clients there may be, loudly where there are more of them already."""
        what = "Up to %d clients can be connected at once: %d files and connections can be open"
        log.info(what, self.sessions, self.files, extra={"action": "open_files"})
        if nodes > self.sessions:
            log.warning(
                "That is too few for the %d nodes that are known. %s", nodes, ADVICE, extra={"action": "too_few_open_files"}
            )

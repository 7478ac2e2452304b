"""Every error that Hedgerow raises on purpose.

::

    HedgerowError
    ├── CallerError                     the caller asked for something that cannot be
    │   ├── InvalidArgument             a value is wrong (also a ValueError)
    │   ├── ConfigError                 an option, an address or a file given at start is wrong
    │   ├── NotFound                    no such node, run, task or blob
    │   ├── AlreadyExists               the name or id is taken
    │   ├── Unauthenticated             the peer did not prove who it is
    │   ├── PermissionDenied            the peer is known and may not do this
    │   ├── Fenced                      a newer session of the same node has taken over
    │   ├── InvalidTransition           a task or run is not in a state that allows this
    │   └── ProtocolMismatch            the two sides speak different versions
    ├── PeerError                       another party did not do its part
    │   ├── TaskFailed                  a task ended without a result
    │   └── BadUpdate                   a result arrived and cannot be used
    ├── RunEnded                        the run was ended by somebody else
    ├── Unavailable                     the other side is not there now; trying again may help
    ├── LimitReached                    a named limit is used up
    ├── WaitTimeout                     a wait reached its named limit (also a TimeoutError)
    └── CorruptData                     bytes on disk or from the wire are not what they should be

A message says what was wrong, with which id, and what to do. The docstring of each class is its message when none is given.
"""

from __future__ import annotations


class HedgerowError(Exception):
    """Hedgerow failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or "").strip())


class CallerError(HedgerowError):
    """The request cannot be carried out."""


class InvalidArgument(CallerError, ValueError):
    """A value is wrong."""


class ConfigError(CallerError):
    """An option is wrong."""


class NotFound(CallerError):
    """There is no such thing."""


class AlreadyExists(CallerError):
    """The name or id is taken."""


class Unauthenticated(CallerError):
    """The peer did not prove who it is."""


class PermissionDenied(CallerError):
    """The peer may not do this."""


class Fenced(CallerError):
    """A newer session of the same node has taken over."""


class InvalidTransition(CallerError):
    """The state does not allow this."""


class ProtocolMismatch(CallerError):
    """The two sides speak different versions of the protocol."""


class PeerError(HedgerowError):
    """Another party did not do its part."""


class TaskFailed(PeerError):
    """A task ended without a result.

    Attributes:
        node: Name of the node.
        kind: Kind of the task.
        reason: Why, in one word: the name of a :class:`hedgerow.records.Outcome`.
        traceback: Text of the traceback at the client, or "".
    """

    def __init__(
        self, message: str | None = None, *, node: str = "", kind: str = "", reason: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message if message is not None else "A task ended without a result.")
        self.node = node
        self.kind = kind
        self.reason = reason
        self.traceback = traceback


class BadUpdate(PeerError):
    """A result cannot be used."""


class RunEnded(HedgerowError):
    """The run was ended by somebody else."""


class Unavailable(HedgerowError):
    """The other side is not there now.

    Attributes:
        come_back_after_s: How many seconds it asks to be left alone for.
    """

    def __init__(self, message: str | None = None, *, come_back_after_s: float = 0.0) -> None:
        super().__init__(message if message is not None else "The other side is not there now.")
        self.come_back_after_s = come_back_after_s


class LimitReached(HedgerowError):
    """A limit is used up."""


class WaitTimeout(HedgerowError, TimeoutError):
    """A wait reached its limit."""


class CorruptData(HedgerowError):
    """Bytes are not what they should be."""

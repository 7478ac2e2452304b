"""Telling the server which rounds are over, without making the next round wait for the answer.

What is owed is told a moment later, so that the server works on it while the clients train. Rounds that are over meanwhile are
told with it: where rounds take milliseconds, many have one call and one commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from hedgerow.driver.connection import Connection
from hedgerow.errors import HedgerowError
from hedgerow.waits import Limit, wait_future
from hedgerow.wire.proto import driver_pb2

ANSWERED = Limit("limits of the calls within", None)
SOON_S = 0.1
"""Seconds after which it is told."""
MAX_MANIFEST_BYTES = 1024 * 1024
"""With more to tell nothing is added: the next one waits until that is told."""


class Acknowledgements:
    """The acknowledgements of one run.

    Args:
        connection: The way to the server.
        reconnect: How long the server may be away.
        failed: Told when the server refuses one, or is away for longer; runs on the connection's thread.
    """

    def __init__(self, connection: Connection, reconnect: Limit, failed: Callable[[HedgerowError], None]) -> None:
        self._connection = connection
        self._reconnect = reconnect
        self._failed = failed
        self._lock = threading.Lock()
        self._owed: driver_pb2.AcknowledgeRoundRequest | None = None
        self._telling = False
        self._newest = -1
        self._told: Future[None] = Future()
        self._told.set_result(None)

    def owe(self, request: driver_pb2.AcknowledgeRoundRequest) -> None:
        """Tell this soon, with what is owed already. Blocks only while that is much.

        Raises:
            HedgerowError: The one before could not be told.
        """
        if self._told.done() or self._bytes_owed() > MAX_MANIFEST_BYTES:
            self.settle(ANSWERED)
        with self._lock:
            if self._told.done():
                self._told = Future()
                self._told.set_running_or_notify_cancel()  # whoever waits and gives up takes it from nobody
            self._newest = max(self._newest, request.round)
            first = self._owed is None
            self._owed = request if self._owed is None else _both(self._owed, request)
        if first:
            self._connection.call_later(SOON_S, self.tell)

    def _bytes_owed(self) -> int:
        with self._lock:
            return 0 if self._owed is None else self._owed.ByteSize()

    def tell(self) -> None:
        """Tell now what is owed; does not wait for the answer."""
        with self._lock:
            if self._telling or self._owed is None:
                return  # who is telling goes on with it
            self._telling = True
        self._connection.spawn(self._tell())

    def settle_before(self, first_round: int) -> None:
        """Block until all is told of rounds from this one on: tasks that are pushed before that would end with their round.

        Raises:
            HedgerowError: It could not be told.
        """
        with self._lock:
            ends_them = not self._told.done() and self._newest >= first_round
        if ends_them:
            self.settle(ANSWERED)

    def settle(self, limit: Limit) -> None:
        """Block until nothing is owed and all is told.

        Raises:
            HedgerowError: It could not be told.
            WaitTimeout: It was not told within the limit.
        """
        self.tell()
        wait_future(self._told, limit, "an answer to AcknowledgeRound")

    def drop(self) -> None:
        """Nothing more is told: the connection is about to be closed, and who waits for an answer gets none."""
        self._answered(HedgerowError("The driver was closed."))

    async def _tell(self) -> None:
        try:
            while (request := self._next()) is not None:
                await self._connection.call("AcknowledgeRound", request, self._reconnect)
        except HedgerowError as error:
            self._answered(error)
            self._failed(error)
        except BaseException as error:
            self._answered(error)
            raise

    def _next(self) -> driver_pb2.AcknowledgeRoundRequest | None:
        """What is owed; where nothing is, all is told."""
        with self._lock:
            owed, self._owed = self._owed, None
            if owed is None:
                self._telling = False
                if not self._told.done():
                    self._told.set_result(None)
            return owed

    def _answered(self, error: BaseException) -> None:
        """Nothing more is told. What comes first counts."""
        with self._lock:
            self._owed, self._telling = None, False
            if not self._told.done():
                self._told.set_exception(error)


def _both(
    before: driver_pb2.AcknowledgeRoundRequest, after: driver_pb2.AcknowledgeRoundRequest
) -> driver_pb2.AcknowledgeRoundRequest:
    """One acknowledgement for two: what is kept is what the later one keeps."""
    both = driver_pb2.AcknowledgeRoundRequest()
    both.CopyFrom(after)
    both.round = max(before.round, after.round)
    del both.manifest[:]
    both.manifest.extend([*before.manifest, *after.manifest])
    return both

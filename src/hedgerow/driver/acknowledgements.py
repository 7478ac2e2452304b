"""Telling the server which rounds are over, without making the next round wait for the answer.

What is owed goes with the next tasks that are pushed, and the server works on it when these are on their way, while the clients
train; or it is told a moment later where no tasks follow (the driver evaluates). At most one is owed: the next one waits until it
is told.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from hedgerow.driver.connection import Connection
from hedgerow.errors import HedgerowError
from hedgerow.waits import Limit, wait_future
from hedgerow.wire.proto import driver_pb2

ANSWERED = Limit("limits of the calls within", None)
SOON_S = 0.05
"""Seconds after which it is told although no tasks were pushed."""


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
        self._told: Future[None] = Future()
        self._told.set_result(None)

    def owe(self, request: driver_pb2.AcknowledgeRoundRequest) -> None:
        """Tell this soon; blocks until the one before is told.

        Raises:
            HedgerowError: The one before could not be told.
        """
        self.settle(ANSWERED)
        with self._lock:
            self._owed, self._told = request, Future()
            self._told.set_running_or_notify_cancel()  # whoever waits and gives up takes it from nobody
        self._connection.call_later(SOON_S, self.tell)

    def tell(self) -> None:
        """Tell now what is owed; does not wait for the answer."""
        with self._lock:
            owed, self._owed = self._owed, None
        if owed is not None:
            self._connection.spawn(self._tell(owed, self._told))

    @contextlib.contextmanager
    def riding(self, first_round: int) -> Iterator[driver_pb2.AcknowledgeRoundRequest | None]:
        """What is owed, to be told with tasks of this round and later ones inside the ``with`` block; None for nothing.

        Tasks of a round that is over would end with it: then it is told before them. An error of the block leaves open whether
        it was told: it is owed as before, and will be told again.

        Raises:
            HedgerowError: It could not be told before them.
        """
        with self._lock:
            ends_them = self._owed is not None and self._owed.round >= first_round
        if ends_them:
            self.settle(ANSWERED)
        with self._lock:
            owed, self._owed, told = self._owed, None, self._told
        try:
            yield owed
        except BaseException:
            with self._lock:
                if not told.done():
                    self._owed = owed
            self._connection.call_later(SOON_S, self.tell)  # somebody may be waiting for it
            raise
        if owed is not None:
            self._answered(told, None)

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
        with self._lock:
            self._owed = None
        self._answered(self._told, HedgerowError("The driver was closed."))

    async def _tell(self, request: driver_pb2.AcknowledgeRoundRequest, told: Future[None]) -> None:
        try:
            await self._connection.call("AcknowledgeRound", request, self._reconnect)
        except HedgerowError as error:
            self._answered(told, error)
            self._failed(error)
        except BaseException as error:
            self._answered(told, error)
            raise
        else:
            self._answered(told, None)

    def _answered(self, told: Future[None], error: BaseException | None) -> None:
        """What comes first counts."""
        with self._lock:
            if told.done():
                return
            if error is None:
                told.set_result(None)
            else:
                told.set_exception(error)

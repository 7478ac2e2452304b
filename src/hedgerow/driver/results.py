"""The answers to one batch of instructions: a sequence that fills while clients answer.

Owned here: who has answered, in which order answers are seen, and who waits for what. Where answers come from is the business of
whoever calls :meth:`Results.put` and :meth:`Results.fail`. Each instruction gets one answer; a second one is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, overload

from hedgerow.strategy.clients import ClientProxy
from hedgerow.waits import Limit, wait_condition

R = TypeVar("R")
ANSWERS = Limit("round_timeout", None)
"""Waiting for an answer has no limit of its own: the round's deadline, if there is one, turns what is missing into failures."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What an answer took: bytes of its parameters, and seconds at the client."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A client that gave nothing that could be used."""

    client: ClientProxy
    error: Exception


Late: TypeAlias = Callable[[ClientProxy], Exception]
"""The failure of a client that a deadline has caught."""


Closed: TypeAlias = Callable[[Mapping[int, Failed], Mapping[int, Measure]], None]
"""Told who failed and what answers took, by the instruction's index."""


class Results(Sequence[tuple[ClientProxy, R]], Generic[R]):
    """The successful answers as ``(client, answer)``, in the order of the instructions.

    Iterating waits for the next answer only; ``len``, indexing, truth and :attr:`failures` wait for all of them. Once all are
    here it is an ordinary sequence.

    Args:
        clients: Who was asked, in order.
        completed: Called once, with the numbers of results and failures, when the last answer is here, before anybody sees that.
        failed: Called for each failure when it happens.
        enough: After so many results ``reached`` is called; None for never.
        reached: Called once, for a grace time to begin.
        closed: Called once, when the last answer is here, by whoever reads, before the reader sees the end. It may take its time;
            when it raises, the reader gets that, and the next reader calls it again.

    Attributes:
        not_asked: Names of clients that were available and not asked.
        measures: What answers took, by the instruction's index, as far as that is known.
        complete: Set when no answer is wanted any longer.
    """

    def __init__(
        self,
        clients: Sequence[ClientProxy],
        completed: Callable[[int, int], None] = lambda results, failures: None,
        failed: Callable[[ClientProxy, Exception], None] = lambda client, error: None,
        enough: int | None = None,
        reached: Callable[[], None] = lambda: None,
        closed: Closed = lambda failed, measures: None,
    ) -> None:
        self.not_asked: list[str] = []
        self.measures: dict[int, Measure] = {}
        self.complete = threading.Event()
        self._clients = list(clients)
        self._answers: list[R | Failed | None] = [None] * len(self._clients)
        self._arrived = [False] * len(self._clients)
        self._open = len(self._clients)
        self._error: BaseException | None = None
        self._completed = completed
        self._failed = failed
        self._enough = enough
        self._reached = reached
        self._closed: Closed | None = closed
        self._closing = threading.Lock()
        # Reentrant: what is called back under the lock may look at the sequence.
        self._condition = threading.Condition(threading.RLock())
        if not self._clients:
            self.complete.set()
            completed(0, 0)

    # --- the side that fills -----------------------------------------------------------------------------------------------

    def put(self, index: int, answer: R) -> bool:
        """The client of this instruction answered; False if that instruction has its answer already."""
        return self._settle(index, answer)

    def fail(self, index: int, error: Exception) -> bool:
        """The client of this instruction failed; False if that instruction has its answer already."""
        return self._settle(index, Failed(self._clients[index], error))

    def arrived(self, index: int) -> bool:
        """Note that an answer is at the server and on its way here. False if it comes too late."""
        with self._condition:
            self._arrived[index] = True
            return self._answers[index] is None

    def client(self, index: int) -> ClientProxy:
        """Who got the instruction."""
        return self._clients[index]

    def is_open(self, index: int) -> bool:
        """Whether the instruction has no answer yet."""
        with self._condition:
            return self._answers[index] is None

    def expire(self, late: Late, unfetched: Late | None = None) -> list[int]:
        """A deadline is reached: instructions without an answer fail with ``late(client)``. Returns their indices.

        Those whose answer is on its way fail with ``unfetched(client)``; without that they are waited for.
        """
        with self._condition:
            indices = [index for index, answer in enumerate(self._answers) if answer is None]
            for index in indices:
                error = unfetched if self._arrived[index] else late
                if error is not None:
                    self.fail(index, error(self._clients[index]))
            return [index for index in indices if not self._arrived[index]]

    def abort(self, error: BaseException) -> None:
        """Nothing more will come: everybody who waits for an answer gets this error."""
        with self._condition:
            if self._open and self._error is None:
                self._error = error
                self.complete.set()
                self._condition.notify_all()

    def _settle(self, index: int, answer: R | Failed) -> bool:
        with self._condition:
            if self._answers[index] is not None:
                return False
            self._answers[index] = answer
            self._open -= 1
            if isinstance(answer, Failed):
                self._failed(answer.client, answer.error)
            if not self._open:
                self.complete.set()
                failures = len(self._failures_now())
                self._completed(len(self._clients) - failures, failures)
            elif self._enough is not None and not isinstance(answer, Failed):
                self._enough -= 1
                if self._enough == 0:
                    self._reached()
            self._condition.notify_all()
            return True

    # --- the side that reads -----------------------------------------------------------------------------------------------

    def until_complete(self) -> None:
        """Wait until every instruction has its answer.

        Raises:
            RunEnded: The run was ended by somebody else; and whatever else makes it impossible to go on.
        """
        with self._condition:
            what = f"{self._open} of {len(self._clients)} answers"
            wait_condition(self._condition, lambda: not self._open or self._error is not None, ANSWERS, what)
            if self._open and self._error is not None:
                raise self._error
        with self._closing:
            if self._closed is not None:
                self._closed({i: a for i, a in enumerate(self._answers) if isinstance(a, Failed)}, self.measures)
                self._closed = None

    def __iter__(self) -> Iterator[tuple[ClientProxy, R]]:
        for index, client in enumerate(self._clients):
            answer = self._answer(index)
            if not isinstance(answer, Failed):
                yield client, answer
            del answer
        self.until_complete()

    def _answer(self, index: int) -> R | Failed:
        with self._condition:
            wait_condition(
                self._condition,
                lambda: self._answers[index] is not None or self._error is not None,
                ANSWERS,
                f"the answer of {self._clients[index].cid}",
            )
            answer = self._answers[index]
            if answer is None:
                assert self._error is not None
                raise self._error
            return answer

    def __len__(self) -> int:
        self.until_complete()
        return len(self._clients) - len(self._failures_now())

    @overload
    def __getitem__(self, index: int) -> tuple[ClientProxy, R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[ClientProxy, R]]: ...
    def __getitem__(self, index: int | slice) -> tuple[ClientProxy, R] | list[tuple[ClientProxy, R]]:
        """One or several of the successful answers, when all are here."""
        self.until_complete()
        return list(self)[index]

    def __repr__(self) -> str:
        with self._condition:
            return f"<Results of {len(self._clients)} clients, {self._open} open>"

    @property
    def failures(self) -> Failures:
        """The errors of the clients that failed; reading them waits for the last answer."""
        return Failures(self)

    def failed(self) -> list[Failed]:
        """The clients that failed, in the order of the instructions, when all answers are here."""
        self.until_complete()
        return self._failures_now()

    def answers(self) -> list[tuple[ClientProxy, R | Failed]]:
        """Every client that was asked, with its answer or failure, when all answers are here."""
        self.until_complete()
        return [(c, answer) for c, answer in zip(self._clients, self._answers, strict=True) if answer is not None]

    def _failures_now(self) -> list[Failed]:
        return [answer for answer in self._answers if isinstance(answer, Failed)]


class Failures(Sequence[BaseException]):
    """The errors of the clients that failed, in the order of the instructions. Everything about it waits for the last answer."""

    def __init__(self, results: Results[R]) -> None:
        self._failed = results.failed

    def __len__(self) -> int:
        return len(self._failed())

    @overload
    def __getitem__(self, index: int) -> BaseException: ...
    @overload
    def __getitem__(self, index: slice) -> list[BaseException]: ...
    def __getitem__(self, index: int | slice) -> BaseException | list[BaseException]:
        """One or several of the errors."""
        errors: list[BaseException] = list(self)
        return errors[index]

    def __iter__(self) -> Iterator[BaseException]:
        return iter([failed.error for failed in self._failed()])

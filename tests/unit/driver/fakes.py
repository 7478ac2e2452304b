"""Clients and an exchange without any network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from hedgerow.aggregation import UpdateSpec
from hedgerow.driver.asynchronous import Flights
from hedgerow.driver.results import Results
from hedgerow.records import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Status,
)
from hedgerow.strategy import ClientProxy

OK = Status(Code.OK, "")


def model(*values: float) -> Parameters:
    return Parameters({"w": np.array(values, np.float32)})


def fitted(value: float, examples: int = 1, **metrics: float) -> FitRes:
    return FitRes(OK, model(value), examples, dict(metrics))


class FakeClient(ClientProxy):
    """Answers at once. ``fits`` and ``losses`` may hold an exception in place of an answer."""

    def __init__(self, cid: str, fit: Any = None, evaluate: Any = None) -> None:
        super().__init__(cid)
        self.answers = {"fit": fit, "evaluate": evaluate}

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None) -> GetPropertiesRes:
        return GetPropertiesRes(OK, {"location": self.cid})

    def get_parameters(self, ins: GetParametersIns, timeout: float | None) -> GetParametersRes:
        return GetParametersRes(OK, model(float(len(self.cid))))

    def fit(self, ins: FitIns, timeout: float | None) -> FitRes:
        answer: FitRes = self._answer("fit")
        return answer

    def evaluate(self, ins: EvaluateIns, timeout: float | None) -> EvaluateRes:
        answer: EvaluateRes = self._answer("evaluate")
        return answer

    def _answer(self, kind: str) -> Any:
        answer = self.answers[kind]
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeExchange:
    """Answers all instructions before it returns."""

    run_seed = 11

    def __init__(self) -> None:
        self.rounds: list[str] = []
        self.specs: list[UpdateSpec] = []
        self.manifests: list[str] = []
        self.sent: dict[str, list[tuple[ClientProxy, Any]]] = {}

    def start_round(self, server_round: int) -> None:
        self.rounds.append(f"start {server_round}")

    @property
    def flights(self) -> Flights:
        raise NotImplementedError

    def finish_round(self, server_round: int, manifest: str = "", oldest_open: int | None = None) -> None:
        self.rounds.append(f"finish {server_round}")
        self.manifests.append(manifest)

    def sent_fit(self, parameters: Parameters) -> list[tuple[ClientProxy, FitIns]] | None:
        return self.sent.get("fit")

    def sent_evaluate(self, parameters: Parameters) -> list[tuple[ClientProxy, EvaluateIns]] | None:
        return self.sent.get("evaluate")

    def fit(
        self, instructions: Sequence[tuple[ClientProxy, FitIns]], specs: Sequence[UpdateSpec], timeout: float | None
    ) -> Results[FitRes]:
        self.specs = list(specs)
        return self._all(instructions, lambda client, ins: client.fit(ins, timeout))

    def evaluate(self, instructions: Sequence[tuple[ClientProxy, EvaluateIns]], timeout: float | None) -> Results[EvaluateRes]:
        return self._all(instructions, lambda client, ins: client.evaluate(ins, timeout))

    @staticmethod
    def _all(instructions: Sequence[tuple[ClientProxy, Any]], call: Callable[[ClientProxy, Any], Any]) -> Results[Any]:
        results: Results[Any] = Results([client for client, _ in instructions])
        for index, (client, ins) in enumerate(instructions):
            try:
                results.put(index, call(client, ins))
            except Exception as error:  # noqa: BLE001
                results.fail(index, error)
        return results


class Reader:
    """Runs something in a thread and tells whether it is still waiting, without any sleep."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.value: Any = None
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            self.value = self._action()
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def start(self) -> Reader:
        self._thread.start()
        return self

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it waits for ever"
        if self.error is not None:
            raise self.error
        return self.value


@contextmanager
def waiting(condition: threading.Condition, action: Callable[[], Any]) -> Iterator[Reader]:
    """A reader that has begun to wait on the condition."""
    began = threading.Event()
    original = condition.wait

    def wait(timeout: float | None = None) -> bool:
        began.set()  # under the condition's lock: nobody can change anything before the wait has begun
        return original(timeout)

    condition.wait = wait  # type: ignore[method-assign]
    reader = Reader(action).start()
    assert began.wait(10), "it does not wait"
    yield reader

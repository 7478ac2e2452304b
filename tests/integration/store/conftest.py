"""A store on a real SQLite file, a clock that the test holds, and shorthands for the peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.records import Blob, Config, Instruction, Outcome, Payload, Reply, Task
from hedgerow.sampling import task_id
from hedgerow.security import Identity, Role
from hedgerow.store.store import Store

RUN = "run00000001"


class HeldClock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


def client(number: int) -> Identity:
    return Identity(Role.CLIENT, f"node{number:08d}", f"{number:064x}")


def driver(number: int = 1) -> Identity:
    return Identity(Role.DRIVER, f"driver{number:08d}", f"{number + 1000:064x}")


def digest(number: int) -> str:
    return f"{number:064x}"


def fit(
    node: Identity,
    *,
    round: int = 1,
    sequence: int = 0,
    run_id: str = RUN,
    payload: Payload | None = None,
    config: Config | None = None,
) -> Task:
    instruction = Instruction("fit", config or {}, payload)
    return Task(task_id(run_id, round, node.id, "fit", sequence), run_id, node.id, round, sequence, 7, instruction)


def done(payload: Payload | None = None, loss: float = 0.5) -> Reply:
    return Reply(Outcome.OK, "Success", num_examples=10, loss=loss, metrics={"accuracy": 0.9}, parameters=payload)


async def upload(
    store: Store, who: Identity, number: int, *, size: int = 100_000, upload_id: str = "", run_id: str = RUN
) -> Blob:
    """Upload a blob whose digest is made of the number."""
    upload_id = upload_id or f"upload{number:04d}{who.id}"
    await store.start_upload(who, upload_id, size, run_id)
    await store.finish_upload(upload_id, digest(number))
    return Blob(digest(number), size)


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hedgerow.sqlite3"


@pytest.fixture
def store(path: Path, clock: HeldClock) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{path}", clock)
    yield opened
    opened.close()

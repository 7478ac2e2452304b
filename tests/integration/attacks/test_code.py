"""A hostile server gives a real client everything that might be taken for code: nothing of it runs, and the client goes on."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from hedgerow.client.connection import Connection
from hedgerow.records import Blob, Config, Outcome
from hedgerow.wire.proto import fleet_pb2, records_pb2
from tests.integration.client.fleet import FakeFleet, FakeSession, Site, fleet_server, task

SITE = """
import sys
from pathlib import Path

import hedgerow.client as hc

HERE = Path(__file__).parent


class Hospital(hc.NumPyClient):
    def get_properties(self, config):
        return {"kinds": ",".join(f"{key}={type(value).__name__}" for key, value in config.items())}

    def fit(self, parameters, config):
        return parameters, 1, {"loaded": "evil_module" in sys.modules or "antigravity" in sys.modules}

    def delete_all(self, *args):
        (HERE / "ran").touch()

    @property
    def secrets(self):
        (HERE / "ran").touch()


site = Hospital()
"""


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class Hostile:
    """A folder with a client that would show if something ran, and the payloads that try."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "ran"
        (folder / "evil_module.py").write_text(f"from pathlib import Path\nPath({str(self.mark)!r}).touch()\n")
        self.pickles = [pickle.dumps(Bomb(self.mark), protocol) for protocol in (0, 2, 5)]
        objects = io.BytesIO()
        npy.write_array(objects, np.array([Bomb(self.mark)], dtype=object), allow_pickle=True)
        self.npy = objects.getvalue()
        self.texts = [
            f"__import__('pathlib').Path({str(self.mark)!r}).touch()",
            f"$(touch {self.mark})",
            f"; touch {self.mark}",
            "evil_module",
            "evil_module:run",
            "!!python/object/apply:os.system ['true']",
        ]

    def ran(self) -> bool:
        return self.mark.exists()

    def config(self) -> Config:
        """Each payload as a value and each text as a key."""
        values: Config = {f"pickle {number}": content for number, content in enumerate(self.pickles)}
        values |= {"npy": self.npy, "callable": "evil_module:run", "__class__": "evil_module", "__reduce__": self.pickles[0]}
        return values | {text: text for text in self.texts}


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Hostile]:
    made = Hostile(tmp_path)
    yield made
    assert not made.ran()


async def told(fleet: FakeFleet, session: FakeSession, message: records_pb2.Task) -> Any:
    """The client's answer to one more task."""
    count = len(fleet.completed)
    session.push(assign=message, origin={"driver": "evil_module:run", "sites": 1})
    return (await fleet.replies(count + 1))[-1]


def test_the_payloads_would_run_if_somebody_ran_them(tmp_path: Path) -> None:
    made = Hostile(tmp_path)
    for content in made.pickles:
        pickle.loads(content)
        assert made.ran()
        made.mark.unlink()
    npy.read_array(io.BytesIO(made.npy), allow_pickle=True)
    assert made.ran()


async def test_nothing_that_a_server_sends_is_run(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = iter([*hostile.pickles, hostile.npy])

    async def download(connection: Connection, blob: Blob, target: Path, *_: object) -> None:
        target.write_bytes(next(contents))  # noqa: ASYNC240 (a few bytes)

    monkeypatch.setattr(Connection, "download", download)
    async with fleet_server() as fleet:
        site = Site(tmp_path, fleet, SITE)
        await site.start()
        try:
            session = await fleet.session()
            properties = await told(fleet, session, task(1, "get_properties", hostile.config()))
            assert properties.outcome is Outcome.OK
            assert "pickle 0=bytes,pickle 1=bytes" in properties.metrics["kinds"], "values stay what they are: bytes and texts"
            inline = [*hostile.pickles, hostile.npy, *(text.encode() for text in hostile.texts)]
            for number, content in enumerate(inline, start=100):
                assert (await told(fleet, session, task(number, parameters=content))).outcome is Outcome.INVALID_RESULT
            for number in range(200, 204):
                named = Blob(f"{number:064x}", 10)
                assert (await told(fleet, session, task(number, parameters=named))).outcome is Outcome.INVALID_RESULT
            for number, kind in enumerate(KINDS, start=300):
                message = task(number)
                message.instruction.kind = kind
                reply = await told(fleet, session, message)
                assert reply.outcome in (Outcome.NOT_IMPLEMENTED, Outcome.INVALID_RESULT), kind
            for event in ("cancel", "goodbye"):
                why = hostile.texts[0]
                session.push(**{event: {"task_id": "task9999", "reason": why} if event == "cancel" else _come_back(why)})
            session = await fleet.session(2)
            good = await told(fleet, session, task(2))
            assert (good.outcome, good.metrics["loaded"]) == (Outcome.OK, False)
            assert site.worker.pid is not None
        finally:
            await site.stop()


def _come_back(reason: str) -> fleet_pb2.Goodbye:
    return fleet_pb2.Goodbye(reason=reason, come_back_after_s=0.0)


KINDS = [
    "delete_all",
    "secrets",
    "__class__",
    "__init__",
    "__reduce__",
    "__import__",
    "to_client",
    "context",
    "evil_module",
    "evil_module:run",
    "os.system",
    "antigravity",
    "eval",
    "exec",
    "fit.__globals__",
    "fit\n",
]
"""What a server may call a task; the site's own methods are among them."""

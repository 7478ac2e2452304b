"""The lint for waits: what it finds, what it leaves alone, and the package itself."""

from __future__ import annotations

import textwrap

import pytest

from tests.source_tree import ROOT, modules
from tests.unit.test_layers import LAYERS, PURE_LAYERS, layer_of, unit_of
from tests.waits_lint import OWNER, unlimited_waits


def may_wait(name: str) -> bool:
    """Pure modules cannot wait (the layers' test sees to that), and the owner of waits must."""
    unit = unit_of(name)
    return name != OWNER and (unit is None or list(LAYERS)[layer_of(unit)] not in PURE_LAYERS)


def test_every_wait_of_the_package_has_a_named_limit() -> None:
    checked = [module for module in modules() if may_wait(module.name)]
    assert len(checked) > 10, "the lint must see the package"
    found = [f"{module.place}:{line}" for module in checked for line in unlimited_waits(module.text)]
    assert not found, "\n" + "\n".join(found)


def test_every_wait_of_the_scripts_has_a_limit() -> None:
    found = [f"scripts/{path.name}:{line}" for path in ROOT.glob("scripts/*.py") for line in unlimited_waits(path.read_text())]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.sleep(1)",
        "from time import sleep\nsleep(1)",
        "from time import sleep as nap\nnap(1)",
        "import time\nlater = time.sleep",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "import asyncio\nasync def f(x):\n    await asyncio.wait_for(x, 3)",
        "import asyncio\nasync def f(x):\n    async with asyncio.timeout(3):\n        await x",
        "import asyncio\nasync def f(tasks):\n    await asyncio.wait(tasks)",
        "import asyncio\nasync def f(event):\n    await event.wait()",
        "from hedgerow.waits import pause, wait\nasync def f(event):\n    await event.wait()",
        "import concurrent.futures\ndef f(fs):\n    concurrent.futures.wait(fs)",
        "from concurrent.futures import as_completed\ndef f(fs):\n    return list(as_completed(fs))",
        "def f(event):\n    event.wait()",
        "def f(event):\n    event.wait(None)",
        "def f(event):\n    event.wait(timeout=None)",
        "def f(condition):\n    condition.wait_for(lambda: True)",
        "def f(queue):\n    return queue.get()",
        "def f(queue):\n    return queue.get(True)",
        "def f(queue):\n    return queue.get(block=True)",
        "def f(thread):\n    thread.join()",
        "def f(future):\n    return future.result()",
        "def f(a, b):\n    if a.done():\n        return b.result()",
        "def f(lock):\n    lock.acquire()",
        "def f(lock):\n    lock.acquire(True)",
        "def f(process):\n    process.communicate(b'input')",
        "def f(server):\n    server.wait_for_termination()",
        "import subprocess\nsubprocess.run(['true'])",
        "import subprocess\nsubprocess.run(['true'], timeout=None)",
        "import urllib.request\nurllib.request.urlopen('http://localhost')",
        "from http.client import HTTPConnection\nHTTPConnection('localhost', 1)",
        "import select\nselect.select([], [], [])",
        "import selectors\ndef f():\n    selectors.DefaultSelector().select()",
        "def f(sock):\n    sock.settimeout(None)",
        "def f(sock):\n    sock.setblocking(True)",
        "import asyncio\nasync def f(queue):\n    await asyncio.to_thread(queue.get)",
        "def f(pool, process):\n    pool.submit(process.wait)",
        "import signal\nsignal.pause()",
    ],
)
def test_a_wait_without_a_limit_is_found(source: str) -> None:
    assert len(unlimited_waits(source)) == 1, source


@pytest.mark.parametrize(
    "source",
    [
        "from hedgerow.waits import Limit, wait\nasync def f(event, limit):\n    await wait(event.wait(), limit, 'news')",
        "from hedgerow import waits\nasync def f(queue, limit):\n    return await waits.wait(queue.get(), limit, 'work')",
        "from hedgerow import waits\nasync def f():\n    await waits.pause(1, 'back-off')",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)",
        "import asyncio\nasync def f(tasks, limit):\n    await asyncio.wait(tasks, timeout=limit.seconds)",
        "import asyncio\nfrom hedgerow.waits import wait\nasync def f(ts, limit):\n    await wait(asyncio.wait(ts), limit, 'x')",
        "def f(event, limit):\n    return event.wait(limit.seconds)",
        "def f(condition, limit):\n    return condition.wait_for(lambda: True, limit.seconds)",
        "def f(queue):\n    return queue.get(timeout=1), queue.get(True, 1), queue.get(block=False), queue.get_nowait()",
        "def f(mapping):\n    return mapping.get('key'), mapping.get('key', None)",
        "def f(thread, words):\n    thread.join(5)\n    return ', '.join(words)",
        "def f(future):\n    return future.result(5)",
        "def f(future):\n    if future.done():\n        return future.result()",
        "def f(task):\n    if not task.cancelled() and task.exception():\n        return 1",
        "def f(log):\n    log.exception('failed')",
        "def f(lock):\n    lock.acquire(blocking=False)\n    lock.acquire(False)\n    lock.acquire(timeout=1)",
        "def f(process, limit):\n    process.communicate(timeout=limit.seconds)\n    process.wait(limit.seconds)",
        "import subprocess\nsubprocess.run(['true'], timeout=5)",
        "import select\nselect.select([], [], [], 1)",
        "def f(table):\n    return table.select()",
        "def f(sock):\n    sock.settimeout(3)\n    sock.setblocking(False)",
        "def f(pool, limit, process):\n    pool.submit(process.wait, limit.seconds)",
        "def time():\n    return sleep",
    ],
)
def test_a_wait_with_a_limit_is_left_alone(source: str) -> None:
    assert unlimited_waits(textwrap.dedent(source)) == []


def test_a_finding_names_its_line_and_what_to_use_instead() -> None:
    assert unlimited_waits("import time\n\ntime.sleep(1)\n") == ["3: time.sleep: use waits.pause_thread"]

"""The limit of open files: raised at start, and shared out."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from hedgerow.server.open_files import Shares

RAISE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
from hedgerow.server.open_files import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_limit_is_raised_as_far_as_the_process_may() -> None:
    done = subprocess.run([sys.executable, "-c", RAISE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["300", "300", "300"]


@pytest.mark.parametrize(("files", "most"), [(20_000, 20_000), (1024, 20_000), (1024, 100), (256, 20_000), (10, 20_000)])
def test_some_files_are_kept_for_the_rest_and_some_connections_for_refusals(files: int, most: int) -> None:
    shares = Shares.of(files, most)
    assert 1 <= shares.sessions <= shares.connections <= most
    if files >= 256:
        assert shares.sessions < shares.connections <= files - 64


def test_twenty_thousand_files_are_enough_for_ten_thousand_clients() -> None:
    assert Shares.of(20_000, 20_000).sessions > 12_000


def test_log_says_how_many_clients_there_may_be_and_warns_where_more_are_known(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shares = Shares.of(1024, 20_000)
    shares.tell(730)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "Up to 730 clients can be connected at once: 1024 files" in caplog.text
    shares.tell(731)
    assert "too few for the 731 nodes that are known. Raise the limit" in caplog.text

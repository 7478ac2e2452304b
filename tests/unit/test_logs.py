from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest

from hedgerow import logs
from hedgerow.errors import ConfigError


@contextmanager
def fresh() -> Iterator[io.StringIO]:
    """Logging as in a fresh process, with what goes to stderr. No fixture, because pytest adds its root handlers after those."""
    package, root = logging.getLogger(logs.PACKAGE), logging.getLogger()
    before = (package.handlers[:], package.level, root.handlers[:], root.level)
    package.handlers[:], root.handlers[:] = [], []
    package.setLevel(logging.NOTSET)
    root.setLevel(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()) as stderr:
            yield stderr
    finally:
        package.handlers[:], root.handlers[:] = before[0], before[2]
        package.setLevel(before[1])
        root.setLevel(before[3])


LOG = logging.getLogger("hedgerow.server.fleet")


def test_shown_log_is_visible_from_debug_up_once_however_often_it_is_asked_for() -> None:
    with fresh() as stderr:
        logs.show()
        logs.show()
        LOG.debug("Node %s connected", "a")
        (line,) = stderr.getvalue().splitlines()
        assert re.fullmatch(r"DEBUG hedgerow \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| test_logs\.py:\d+ \| Node a connected", line)


def test_no_line_is_doubled_under_a_root_handler_whether_it_came_before_or_after() -> None:
    with fresh() as stderr:
        for root_first in (True, False):
            logging.getLogger().handlers[:] = []
            logging.getLogger(logs.PACKAGE).handlers[:] = []
            mine = io.StringIO()
            if not root_first:
                logs.show()
            logging.getLogger().addHandler(logging.StreamHandler(mine))
            if root_first:
                logs.show()
            LOG.info("once")
            assert mine.getvalue() == "once\n"
            assert stderr.getvalue().splitlines() == []


def test_level_that_the_user_has_set_is_kept() -> None:
    with fresh() as stderr:
        logging.getLogger(logs.PACKAGE).setLevel(logging.ERROR)
        logs.show()
        LOG.warning("not shown")
        assert stderr.getvalue().splitlines() == []


def test_shown_log_follows_a_replaced_stderr() -> None:
    with fresh() as stderr:
        logs.show()
        with redirect_stderr(io.StringIO()) as replaced:
            LOG.info("here")
        assert "here" in replaced.getvalue()
        assert stderr.getvalue() == ""


def test_configured_program_shows_its_own_lines_from_the_level_and_warnings_of_others() -> None:
    with fresh() as stderr:
        logs.configure("info")
        logs.show()  # a program may use the Python API too
        LOG.debug("hidden")
        LOG.info("shown")
        logging.getLogger("asyncio").info("hidden")
        logging.getLogger("asyncio").warning("shown of others")
        assert [line.split(" | ")[-1] for line in stderr.getvalue().splitlines()] == ["shown", "shown of others"]


def test_configuring_twice_does_not_double_lines() -> None:
    with fresh() as stderr:
        logs.configure()
        logs.configure()
        LOG.info("once")
        assert len(stderr.getvalue().splitlines()) == 1


def test_json_line_has_the_message_the_extras_and_the_traceback() -> None:
    with fresh() as stderr:
        logs.configure(log_format="json")
        try:
            raise ValueError("broken\nin two lines")
        except ValueError:
            LOG.exception("Task %s failed", "t1", extra={"action": "task_failed", "path": object()})
        (text,) = stderr.getvalue().splitlines()
        line = json.loads(text)
        assert (line["level"], line["logger"], line["message"]) == ("ERROR", "hedgerow.server.fleet", "Task t1 failed")
        assert line["action"] == "task_failed"
        assert line["path"].startswith("<object")
        assert line["exception"].endswith("ValueError: broken\nin two lines")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert re.fullmatch(r"test_logs\.py:\d+", line["place"])


def test_json_time_is_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1_700_000_000.042, "msecs": 42.0, "msg": "x"})
    assert json.loads(logs.JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.042Z"


def test_what_a_peer_says_cannot_forge_a_line_or_reach_the_terminal() -> None:
    record = logging.LogRecord(
        "hedgerow", logging.INFO, __file__, 1, "Node leaves: %s", ("bye\x1b[31m\nINFO hedgerow forged",), None
    )
    first, second = logs.TextFormatter().format(record).splitlines()
    assert first.endswith("bye\\x1b[31m")
    assert second == "    INFO hedgerow forged"


def test_the_log_goes_to_a_file_as_well(tmp_path: Path) -> None:
    with fresh() as stderr:
        logs.to_file("100% mine", str(tmp_path / "log.txt"))
        logs.log(logging.INFO, "from a program: %s", 1)
        handler = logging.getLogger(logs.PACKAGE).handlers[-1]
        handler.close()
        assert "from a program: 1" in stderr.getvalue()
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"100% mine \| INFO hedgerow .* \| from a program: 1", line)


def test_the_log_is_sent_to_no_host() -> None:
    with pytest.raises(ConfigError, match="HTTPHandler"):
        logs.to_file("x", host="log.example")

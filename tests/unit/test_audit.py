"""The audit log: lines that stay, files that are set aside, and questions to them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from hedgerow.audit import AUDIT_FILE, AuditLog, read_audit
from hedgerow.cli import hedgerow
from hedgerow.errors import ConfigError


class Tick:
    """A clock that moves on by a second with each look."""

    def __init__(self) -> None:
        self.time = 1_795_521_600.0

    def now(self) -> float:
        self.time += 1
        return self.time


def filled(folder: Path, count: int, max_bytes: int = 10**6, kept_files: int = 3) -> AuditLog:
    log = AuditLog(folder / AUDIT_FILE, Tick(), max_bytes, kept_files)
    for number in range(count):
        log.note(f"hedgerow://client/{'ab'[number % 2]}", "CompleteTask", "ok", {"task_id": f"task{number:04d}", "digest": ""})
    return log


def test_lines_say_who_did_what_and_when_and_are_for_the_owner_alone(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    (entry,) = read_audit(tmp_path / AUDIT_FILE)
    expected = {
        "at": 1_795_521_601.0,
        "who": "hedgerow://client/a",
        "what": "CompleteTask",
        "task_id": "task0000",
        "outcome": "ok",
    }
    assert entry == expected
    assert stat.S_IMODE((tmp_path / AUDIT_FILE).stat().st_mode) == 0o600


def test_a_log_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    filled(tmp_path, 1).close()
    assert len(list(read_audit(tmp_path / AUDIT_FILE))) == 3


def test_full_files_are_set_aside_and_the_oldest_go(tmp_path: Path) -> None:
    filled(tmp_path, 100, max_bytes=1000).close()
    files = {path.name for path in tmp_path.iterdir()}
    assert len(files) == 4
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    tasks = [str(entry["task_id"]) for entry in read_audit(tmp_path / AUDIT_FILE)]
    assert tasks == [f"task{number:04d}" for number in range(100 - len(tasks), 100)]


def test_long_and_strange_values_stay_one_short_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / AUDIT_FILE, Tick())
    log.note("x" * 10_000, "a\nb", "\x00\u2028", {"run_id": '"}\n{"who": "somebody else"'})
    log.close()
    (line,) = (tmp_path / AUDIT_FILE).read_bytes().splitlines()
    assert len(line) < 1000
    assert json.loads(line)["run_id"] == '"}\n{"who": "somebody else"'


def test_a_broken_disk_costs_the_line_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = filled(tmp_path, 1)
    os.close(log._fd)
    log.note("a", "b", "c", {})
    assert "Not noted in the audit log" in caplog.text
    with pytest.raises(ConfigError, match="cannot be written"):
        AuditLog(tmp_path / "missing" / AUDIT_FILE, Tick())


def test_what_is_noted_after_the_end_reaches_no_other_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = filled(tmp_path, 1)
    log.close()
    with (tmp_path / "other").open("w+") as other:  # takes the number that the log's file had
        log.note("a", "b", "c", {})
        assert other.read() == ""
    assert "Not noted in the audit log" in caplog.text


def test_numbers_are_kept_as_such_and_a_zero_is_something(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / AUDIT_FILE, Tick())
    log.note("a", "b", "c", {"round": 0, "sites": 3, "reason": ""})
    log.close()
    (entry,) = read_audit(tmp_path / AUDIT_FILE)
    assert (entry["round"], entry["sites"], "reason" in entry) == (0, 3, False)


def test_questions_choose_by_every_field_and_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, 10).close()
    with (tmp_path / AUDIT_FILE).open("a") as file:
        file.write('{"half a li')

    def ask(*options: str) -> list[str]:
        assert hedgerow.main(["audit", "--state-dir", str(tmp_path), "--json", *options]) == 0
        return [json.loads(line)["task_id"] for line in capsys.readouterr().out.splitlines()]

    assert len(ask()) == 10
    assert ask("--who", "client/a") == [f"task{number:04d}" for number in range(0, 10, 2)]
    assert ask("--task", "task0003", "--what", "Complete", "--outcome", "ok") == ["task0003"]
    assert ask("--blob", "0") == []
    assert ask("--since", "2026-11-24T12:00:09") == ["task0008", "task0009"]
    assert ask("--until", "2026-11-24T12:00:02") == ["task0000"]
    assert hedgerow.main(["audit", "--state-dir", str(tmp_path), "--task", "task0003"]) == 0
    assert "hedgerow://client/b" in capsys.readouterr().out
    assert hedgerow.main(["audit", "--state-dir", str(tmp_path / "none")]) == 2


def test_what_a_peer_has_said_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "\x1b]0;mine\x07\n2026-11-24 12:00:00  hedgerow://driver/ann  CreateRun"
    (tmp_path / AUDIT_FILE).write_text(json.dumps({"at": 1, "who": "a", "what": "CompleteTask", "task_id": said}) + "\n")
    assert hedgerow.main(["audit", "--state-dir", str(tmp_path)]) == 0
    head, entry = capsys.readouterr().out.splitlines()
    assert (head + entry).isprintable()


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b"5", b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_no_entry_is_passed_over(tmp_path: Path, line: bytes) -> None:
    (tmp_path / AUDIT_FILE).write_bytes(line + b'\n{"who": "a"}\n')
    assert list(read_audit(tmp_path / AUDIT_FILE)) == [{"who": "a"}]

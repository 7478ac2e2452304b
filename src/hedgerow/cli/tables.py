"""Runs and nodes as text for people, as wide as their terminal. Nothing is asked or printed here.

What is too long for the terminal is cut with an ellipsis where the least is lost (names, messages); ``--json`` has everything.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from collections import Counter
from collections.abc import Sequence

from hedgerow.operate import NodeOutcomeView, NodeView, RoundManifestView, RunDetailView, RunView

ID_CHARS = 8
"""So much of an id is shown in tables; any beginning that only one run has names it."""
NAMES_TOLD = 3
LEAST_CHARS = 6
"""A column that gives way keeps so many characters."""
NO_TERMINAL = 10_000
INDENT = " " * 7
_STATES = ("queued", "sent", "done", "failed", "expired", "cancelled")
_BAD = ("failed", "expired")
_OUTCOMES = ("contributed", "late", "failed", "excluded")


def terminal_width() -> int:
    """Columns of the terminal; very many where there is none, so that what goes into a pipe is whole."""
    return shutil.get_terminal_size((NO_TERMINAL, 24)).columns


def runs_table(found: Sequence[RunView], now: float, width: int = NO_TERMINAL) -> str:
    """The runs for people; ``now`` is Unix time in seconds."""
    if not found:
        return "There are no runs."
    rows = [
        (
            r.run_id[:ID_CHARS],
            line(r.name) or "-",
            r.state,
            r.round,
            f"{r.tasks['done']}/{sum(r.tasks.values())}",
            sum(r.tasks[state] for state in _BAD),
            ago(r.created_at, now),
            _life(r, now),
        )
        for r in found
    ]
    return table(("RUN", "NAME", "STATE", "ROUND", "DONE", "FAILED", "OPENED", "DRIVER"), rows, width, gives_way=(1,))


def nodes_table(found: Sequence[NodeView], now: float, width: int = NO_TERMINAL) -> str:
    """The nodes for people."""
    if not found:
        return "There are no nodes."
    rows = [
        (line(n.name), n.state, ago(n.last_seen, now), n.open_tasks, ago(n.created_at, now), n.node_id[:ID_CHARS]) for n in found
    ]
    return table(("NODE", "STATE", "LAST SEEN", "OPEN TASKS", "FIRST SEEN", "ID"), rows, width, gives_way=(0,))


def run_text(found: RunDetailView, now: float, width: int = NO_TERMINAL) -> str:
    """One run for people."""
    r = found.run
    facts = [
        ("run", r.run_id),
        ("name", line(r.name) or "-"),
        ("state", outcome(r)),
        ("seed", str(r.seed)),
        ("opened", f"{_date(r.created_at)} ({ago(r.created_at, now)})"),
    ]
    if r.ended_at is not None:
        facts.append(("ended", f"{_date(r.ended_at)} ({ago(r.ended_at, now)})"))
    seen = _life(r, now) if r.driver_connected else f"last sign of life {_date(r.last_seen)} ({ago(r.last_seen, now)})"
    facts += [("driver", seen), ("blobs", f"{found.blobs} ({found.blob_bytes:,} bytes)")]
    parts = ["\n".join(textwrap.fill(f"{name + ':':<8} {value}", width, subsequent_indent=" " * 9) for name, value in facts)]
    parts += _rounds(found, width)
    if found.failures:
        late = {
            (m.round, phase, one.node)
            for m in found.manifest
            for phase, ones in m.phases.items()
            for one in ones
            if _is_late(one)
        }
        failures = [
            (f.round, f.kind, f.node, "late" if (f.round, f.kind, f.node) in late else f.outcome, line(f.message))
            for f in found.failures
        ]
        parts.append(noted_table(("ROUND", "KIND", "NODE", "FAILURE", "MESSAGE"), failures, width, gives_way=(2,)))
    return "\n\n".join(parts)


def _rounds(found: RunDetailView, width: int) -> list[str]:
    """Rounds that are over, as their driver told, then the tasks of those that it has not told about."""
    parts = []
    over = [(m, phase, ones) for m in found.manifest for phase, ones in (m.phases or {"-": []}).items()]
    if over:
        head = ("ROUND", "KIND", "ASKED", *(word.upper() for word in _OUTCOMES), "WHY")
        rows = []
        for m, phase, ones in over:
            numbers = Counter(one.outcome for one in ones)
            asked = sum(one.asked for one in ones)
            rows.append((m.round, phase, asked, *(numbers[word] for word in _OUTCOMES), _why(m, ones)))
        parts.append(noted_table(head, rows, width))
    told = {m.round for m in found.manifest}
    first = min(told, default=0)
    open_rounds = [x for x in found.rounds if x.round not in told and x.round >= first]
    if open_rounds:
        rows = [(x.round, x.kind, *(x.tasks[state] for state in _STATES)) for x in open_rounds]
        parts.append(table(("ROUND", "KIND", *(state.upper() for state in _STATES)), rows, width))
    return parts


def _why(m: RoundManifestView, ones: Sequence[NodeOutcomeView]) -> str:
    """Why not everybody contributed: who was late or failed by name, the others by number.

    >>> ones = [NodeOutcomeView("a", True, "late", "late"), NodeOutcomeView("b", False, "excluded", "not_sampled")]
    >>> _why(RoundManifestView(1, True, "", {}), ones)
    'late: a; 1 not_sampled'
    """
    names: dict[str, list[str]] = {}
    numbers: Counter[str] = Counter()
    for one in ones:
        if one.outcome == "excluded":
            numbers[one.reason] += 1
        elif one.outcome != "contributed":
            names.setdefault(one.reason or one.outcome, []).append(one.node)
    told = [f"not valid: {m.reason}"] if not m.valid else []
    for reason, who in names.items():
        more = f" and {len(who) - NAMES_TOLD} more" if len(who) > NAMES_TOLD else ""
        told.append(f"{reason}: {', '.join(who[:NAMES_TOLD])}{more}")
    return line("; ".join([*told, *(f"{number} {reason}" for reason, number in numbers.items())]))


def _is_late(one: NodeOutcomeView) -> bool:
    return one.outcome == "late"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], width: int = NO_TERMINAL, gives_way: Sequence[int] = ()) -> str:
    """Aligned columns; numbers to the right. Where it is too wide, the columns that give way are cut, the first one first.

    >>> print(table(("NAME", "N"), [("a", 5), ("long", 12)]))
    NAME   N
    a      5
    long  12
    >>> print(table(("NAME", "N"), [("a long name", 5)], width=12, gives_way=(0,)))
    NAME       N
    a long n…  5
    """
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for i in gives_way:
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[i] -= max(0, min(excess, widths[i] - max(LEAST_CHARS, len(head[i]))))
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cut.rjust(w) if r else cut.ljust(w) for cut, w, r in zip(map(_cut, text, widths), widths, right, strict=True)
        ).rstrip()
        for text in cells
    )


def noted_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], width: int = NO_TERMINAL, gives_way: Sequence[int] = ()
) -> str:
    """As :func:`table`, where the last column is a text that goes below its row if it does not fit beside it.

    >>> print(noted_table(("N", "WHY"), [(5, "short"), (6, "a longer text")], width=14))
    N  WHY
    5  short
    6
           a
           longer
           text
    """
    first = table(head[:-1], [row[:-1] for row in rows], width, gives_way).splitlines()
    room = max(map(len, first))
    lines = []
    for start, note in zip(first, [head[-1], *(str(row[-1]) for row in rows)], strict=True):
        beside = f"{start:<{room}}  {note}".rstrip()
        if len(beside) <= width:
            lines.append(beside)
        else:
            lines += [start, textwrap.fill(note, width, initial_indent=INDENT, subsequent_indent=INDENT)]
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def ago(then: float, now: float) -> str:
    """How long ago something was, in its largest unit.

    >>> [ago(1000.0 - s, 1000.0) for s in (0, 59, 60, 7200, 200_000)]
    ['now', '59 s ago', '1 min ago', '2 h ago', '2 d ago']
    """
    seconds = int(now - then)
    if seconds < 1:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def outcome(r: RunView) -> str:
    """A run's state, and why it ended."""
    return f"{r.state}: {line(r.message)}" if r.message else r.state


def label(r: RunView) -> str:
    """A run's id and name."""
    return f"{r.run_id} ({line(r.name)})" if r.name else r.run_id


def line(text: str) -> str:
    """A text on one line, without what could not be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _life(r: RunView, now: float) -> str:
    return "connected" if r.driver_connected else ago(r.last_seen, now)


def _date(then: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))

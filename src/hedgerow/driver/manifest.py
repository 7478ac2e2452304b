"""A round's line in the manifest: of every node that was available, whether it was asked, and what came of it.

::

    {"round": 3, "valid": true, "reason": "", "fit": [
     {"node": "a", "asked": true, "outcome": "contributed", "examples": 600, "bytes": 2520, "seconds": 1.5},
     {"node": "b", "asked": true, "outcome": "late", "reason": "late", "message": "no answer within 60 s"},
     {"node": "c", "asked": false, "outcome": "excluded", "reason": "not_sampled"}], "evaluate": […]}

Outcomes: ``contributed`` (its result was folded), ``excluded`` (it was not asked, or its result was not used), ``late`` (it did
not answer in time), ``failed`` (it gave nothing that could be used). The reason is one word. A round in which nobody trained is
not valid; the reason says whether nobody was selected or too few gave something.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from hedgerow.driver.answers import LATE, reason_of
from hedgerow.driver.results import Failed, Measure, Results
from hedgerow.records import EvaluateRes, FitRes
from hedgerow.strategy.clients import ClientProxy

NOT_SAMPLED = "not_sampled"
NOT_VALID = "round_not_valid"
NOT_FOLDED = "not_folded"
STALE = "stale"
RUN_OVER = "run_over"
NOBODY = "no clients were selected to train"
MAX_MESSAGE_CHARS = 500

NodeEntry: TypeAlias = dict[str, Any]


def phase_entries(results: Results[FitRes] | Results[EvaluateRes], unused: str = "") -> list[NodeEntry]:
    """What came of each node in one phase of a round, when all answers are here.

    Args:
        results: The answers.
        unused: Why results were not used, in one word; "" if they were.
    """
    entries = []
    for index, (client, answer) in enumerate(results.answers()):
        entries.append(answer_entry(client, answer, results.measures.get(index), unused))
    return entries + not_asked_entries(results.not_asked)


def not_asked_entries(names: Iterable[str]) -> list[NodeEntry]:
    """Nodes that were available and not asked."""
    return [{"node": name, "asked": False, "outcome": "excluded", "reason": NOT_SAMPLED} for name in sorted(names)]


def answer_entry(
    client: ClientProxy, answer: FitRes | EvaluateRes | Failed, measure: Measure | None, unused: str = ""
) -> NodeEntry:
    """What came of one client that was asked. ``unused`` says why its result was not used, in one word; "" if it was."""
    entry: NodeEntry = {"node": client.cid, "asked": True}
    if isinstance(answer, Failed):
        reason = reason_of(answer.error)
        entry["outcome"] = "late" if reason == LATE else "failed"
        entry |= {"reason": reason, "message": str(answer.error)[:MAX_MESSAGE_CHARS]}
    else:
        entry["outcome"] = "excluded" if unused else "contributed"
        if unused:
            entry["reason"] = unused
        entry["examples"] = answer.num_examples
    if measure is not None:
        entry |= {"bytes": measure.bytes, "seconds": round(measure.seconds, 3)}
    return entry


def manifest_line(server_round: int, reason: str, phases: Mapping[str, Sequence[NodeEntry]]) -> str:
    """The line of a round; ``reason`` says why it is not valid, "" if it is."""
    return json.dumps({"round": server_round, "valid": not reason, "reason": reason, **phases}, ensure_ascii=False)

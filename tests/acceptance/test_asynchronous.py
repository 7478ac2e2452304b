"""An asynchronous run over real processes: one client is ten times slower, and the driver dies in the middle."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from hedgerow.testing import Federation, Process, eventually
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
JOB = Limit("job_s", 150.0)
HALF = Limit("half_of_the_job_s", 90.0)
CLIENTS = ("a", "b", "c", "slow")
BUFFER, VERSIONS, MAX_STALENESS = 3, 12, 4


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def start(federation: Federation, folder: Path, *more: str) -> Process:
    words = ["--address", federation.driver.text, "--out", str(folder / "out"), "--slow", "slow", "--seconds", "0.2"]
    words += ["--clients", str(len(CLIENTS)), "--buffer", str(BUFFER), "--rounds", str(VERSIONS), "--seed", "5"]
    words += ["--max-staleness", str(MAX_STALENESS), "--checkpoint-dir", str(folder / "run"), *more]
    return federation.start_driver(WORKLOAD / "job.py", *words)


def stored_results(federation: Federation) -> Counter[tuple[str, int]]:
    with closing(sqlite3.connect(f"file:{federation.database}?mode=ro", uri=True)) as connection:
        query = "select n.name, r.round from results r join nodes n using (node_id) where r.kind = 'fit' and outcome = 'ok'"
        return Counter(connection.execute(query).fetchall())


def test_every_update_is_folded_once_or_told_to_be_stale_although_the_driver_dies(tmp_path: Path) -> None:
    executions, out = tmp_path / "executions", tmp_path / "out"
    env = {"EXECUTIONS": str(executions), "OPENBLAS_NUM_THREADS": "1"}
    with Federation(tmp_path / "federation", env=env) as federation:
        federation.start_server()
        for name in CLIENTS:
            federation.start_client(name, "training_site:site", WORKLOAD)
        federation.wait_for_sessions(len(CLIENTS))
        first = start(federation, tmp_path)
        # In the middle of the making of a version: some of its updates are folded, others are not there yet.
        half = VERSIONS // 2 * BUFFER + 1
        eventually(lambda: len(lines(out / "folds")) >= half, HALF, "half of the updates to be folded")
        first.kill()
        assert len(lines(out / "rounds")) < VERSIONS + 1, "it was killed too late"
        second = start(federation, tmp_path, "--resume")
        assert second.wait(JOB) == 0, second.tail()
        stored = stored_results(federation)

    manifest = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    assert [line["round"] for line in manifest] == list(range(1, VERSIONS + 1)), "one version after the other, across the kill"
    for line in manifest:
        assert sum(entry["outcome"] == "contributed" for entry in line["fit"]) == BUFFER
    entries = [entry for line in manifest for entry in line["fit"] if entry["asked"]]
    outcomes = Counter((entry["outcome"], entry.get("reason")) for entry in entries)
    assert set(outcomes) <= {("contributed", None), ("excluded", "stale"), ("excluded", "run_over")}
    assert outcomes["excluded", "stale"] >= 1, "the slow client's update is too old, and the manifest says so"

    used = Counter((e["node"], e["from_round"]) for e in entries if e.get("reason") != "run_over")
    left = Counter((e["node"], e["from_round"]) for e in entries if e.get("reason") == "run_over")
    began, ended = (
        Counter((node, int(r)) for _, event, node, r, _ in lines(executions) if event == what) for what in ("start", "end")
    )
    assert used <= ended <= used + left, "each execution's result was folded once, told to be stale, or came after the end"
    assert began <= used + left, "nothing was trained twice"
    assert used <= stored

    digests: dict[str, set[str]] = {}
    for server_round, digest in lines(out / "rounds"):
        digests.setdefault(server_round, set()).add(digest)
    assert [len(some) for some in digests.values()] == [1] * (VERSIONS + 1), "what was made again is the same, bit for bit"
    assert len(set.union(*digests.values())) == VERSIONS + 1, "each version is another model"

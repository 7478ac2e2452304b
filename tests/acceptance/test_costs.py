"""A guard for what a round costs: calls, commits, copies and memory of a small fixed job. It measures no time."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.conducted import Conductor
from benchmarks.figures import ROOT
from benchmarks.harness import Sampler, anonymous_bytes, kinds_of, service
from hedgerow.copies import VARIABLE, read_copies
from hedgerow.testing import Federation, eventually
from hedgerow.waits import Limit
from tests.acceptance.costs import CLIENTS, EXPECTED, LARGE, SMALL, grown, shrunk

CALLS = re.compile(r'hedgerow_calls_total\{api="(\w+)",method="(\w+)"\}')
STORE = {"hedgerow_commit_changes_total": "store: changes", "hedgerow_commit_seconds_count": "store: commits"}
QUIET = Limit("quiet_s", 60.0)


class Job:
    """A job at a service with two clients, whose rounds come when they are asked for."""

    def __init__(self, federation: Federation, folder: Path, elements: int) -> None:
        self._federation = federation
        self._copies = folder / "copies"
        self._bytes = 4 * elements
        command = [sys.executable, "-m", "benchmarks.round_driver", federation.driver.text, str(CLIENTS)]
        command += [f"--elements={elements}", f"--checkpoints={folder / f'run-{elements}'}"]
        paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        self.conductor = Conductor(command, folder / f"driver-{elements}.log", {"PYTHONPATH": paths})

    def costs(self, rounds: int) -> dict[str, float]:
        """What each of some rounds costs, after one that nobody looks at."""
        self.conductor.ready()
        before = {kind: max(map(anonymous_bytes, pids)) for kind, pids in self._kinds().items()}
        self.conductor.batch(1)
        counts, copies = self._counts(), self._copied()
        with Sampler(self._kinds()) as sampler:
            self.conductor.batch(rounds)
        found = {name: (value - counts.get(name, 0.0)) / rounds for name, value in self._counts().items()}
        models = rounds * self._bytes
        found |= {name: (value - copies.get(name, 0.0)) / models for name, value in self._copied().items()}
        for kind, start in before.items():
            found[f"memory: MB more of the {kind}"] = sampler.used[kind].peak_anon_mb - start / 1e6
        return {name: value for name, value in found.items() if value}

    def _kinds(self) -> dict[str, list[int]]:
        kinds = kinds_of(self._federation, driver=self.conductor.pid)
        return {kind: kinds[kind] for kind in ("server", "link", "driver")}

    def _counts(self) -> dict[str, float]:
        """The server's counters when nothing happens any longer."""
        seen: list[dict[str, float]] = [{}]

        def quiet() -> bool:
            seen.append(counters(self._federation.metrics()))
            return seen[-1] == seen[-2]

        eventually(quiet, QUIET, "the server's counters to stand still")
        return seen[-1]

    def _copied(self) -> dict[str, float]:
        kinds = {pid: kind for kind, pids in self._kinds().items() for pid in pids}
        sums: dict[str, float] = {}
        for pid, points in read_copies(self._copies).items():
            for point, nbytes in points.items():
                name = f"copies: {point} ({kinds.get(pid, 'worker')})"
                sums[name] = sums.get(name, 0.0) + nbytes
        return sums


def counters(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that the guard looks at, under its names."""
    found = {STORE[name]: value for name, value in metrics.items() if name in STORE}
    for name, value in metrics.items():
        if call := CALLS.fullmatch(name):
            found[f"calls: {call[1]} {call[2]}"] = value
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Path]]:
    folder = tmp_path_factory.mktemp("costs")
    (folder / "copies").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "copies"))
        with service(folder, CLIENTS) as started:
            yield started, folder


@pytest.mark.parametrize(("name", "elements", "rounds"), [("small model", SMALL, 6), ("large model", LARGE, 3)])
def test_a_round_costs_no_more_than_it_did(federation: tuple[Federation, Path], name: str, elements: int, rounds: int) -> None:
    job = Job(*federation, elements)
    with job.conductor:
        found = job.costs(rounds)
    print("\n" + "\n".join(f"{what}: {value:.3f}" for what, value in sorted(found.items())))
    assert not (more := grown(name, found, EXPECTED[name])), "\n".join(more)
    if less := shrunk(found, EXPECTED[name]):
        warnings.warn(f"{name}: rounds have become cheaper; lower in tests/acceptance/costs.py: {', '.join(less)}", stacklevel=1)

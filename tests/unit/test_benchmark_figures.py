"""What benchmarks report: bounds, spreads, ratios and the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks.figures import Figure, Plot, Report, figure, ratio, read_figures
from benchmarks.harness import children, interleaved, parser
from benchmarks.peers import install


def of(value: float, **bounds: float) -> Figure:
    return Figure(name="round", system="hedgerow", value=value, unit="ms", **bounds)  # type: ignore[arg-type]


def test_a_bound_is_met_at_the_bound_itself_and_missed_beyond_it() -> None:
    assert [of(value, must=4.0).met for value in (3.0, 4.0, 4.1)] == [True, True, False]
    assert [of(value, must=4.0, at_least=True).met for value in (3.9, 4.0)] == [False, True]
    assert of(4.0).met is None
    assert of(4.0).stretched is None


def test_targets_say_which_of_them_hold() -> None:
    assert of(1.5, must=2.0, stretch=1.3).targets == "must ≤ 2: holds, stretch ≤ 1.3: MISSED"
    assert of(1.5, must=2.0, at_least=True).targets == "must ≥ 2: MISSED"


def test_several_measurements_give_their_median_and_quartiles() -> None:
    found = figure("round", "hedgerow", [5.0, 1.0, 2.0, 3.0, 4.0], "ms", must=3.0)
    assert (found.low, found.value, found.high, found.met) == (2.0, 3.0, 4.0, True)
    assert figure("round", "hedgerow", [7.0], "ms").text == "7 ms"


def test_a_ratio_is_of_measurements_that_were_made_side_by_side() -> None:
    found = ratio("round", [1.0, 2.0, 30.0], [2.0, 4.0, 60.0], "peer", must=0.7)
    assert (found.value, found.low, found.high, found.unit, found.peer) == (0.5, 0.5, 0.5, "times", "peer")


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    report = Report("rounds", "Rounds", tmp_path)
    report.add(of(3.0, must=4.0), ratio("round", [1.0], [2.0], "peer"))
    report.note("SKIPPED: a peer")
    report.plot(Plot(name="sizes", title="Rounds", x="clients", y="ms", lines={"hedgerow": ([1, 2], [3, 4])}, target=4.0))
    report.write()
    assert read_figures(tmp_path / "rounds.json") == report.figures
    assert json.loads((tmp_path / "rounds.json").read_text())["figures"][0]["met"] is True
    table = (tmp_path / "rounds.md").read_text()
    assert "| round | hedgerow | 3 ms |  | must ≤ 4: holds |" in table
    assert "| round | hedgerow | 0.5 times | peer |  |" in table
    assert "SKIPPED: a peer" in table
    assert "![Rounds](rounds-sizes.png)" in table
    assert (tmp_path / "rounds-sizes.png").stat().st_size > 1000


def test_interleaved_ways_are_measured_equally_often() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}
    assert calls.count("a") == calls.count("b") == 4, "three and one to warm up"


def test_a_process_that_is_gone_has_no_children() -> None:
    assert children(2**22 + 1) == []


@pytest.mark.parametrize(("words", "peers"), [([], 2), (["--peers"], 0), (["--peers", "flwr-1.6"], 1)])
def test_peers_are_chosen(words: list[str], peers: int) -> None:
    assert len(parser("").parse_args(words).peers) == peers


def test_the_suite_finds_the_scripts_that_report_and_nothing_else() -> None:
    found = suite.names()
    assert {"round_latency", "folds", "store_cycles", "blob_transfer"} <= set(found)
    assert not {"harness", "figures", "peers", "conducted", "round_driver", "random_site", "flower_1_6"} & set(found)


def test_the_summary_has_the_figures_that_have_targets(tmp_path: Path) -> None:
    report = Report("rounds", "Rounds", tmp_path)
    report.add(of(3.0, must=2.0), of(5.0))
    report.write()
    assert suite.summary(tmp_path, ["rounds", "absent"]).splitlines()[2:] == ["| rounds | round | 3 ms |  | must ≤ 2: MISSED |"]


@pytest.mark.parametrize("name", ["flwr", "flwr-1.30", "flwr-2.1", "fedml-1.6", "flwr-1.6.0", "../flwr-1.6"])
def test_a_peer_that_is_not_known_is_refused_before_anything_is_installed(name: str) -> None:
    with pytest.raises(SystemExit, match="There is no peer"):
        install(name)

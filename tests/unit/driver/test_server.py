"""The rounds: what is logged, what goes into the history, what happens when clients fail."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.driver import History, NodeFailure, Server, ServerConfig, SimpleClientManager, parameter_files
from hedgerow.driver.parameter_files import ParameterFiles
from hedgerow.errors import BadUpdate, ConfigError, TaskFailed
from hedgerow.records import Code, EvaluateIns, EvaluateRes, FitIns, FitRes, GetParametersRes, Parameters, Status
from hedgerow.strategy import FedAvg, FedAvgM
from hedgerow.strategy.composition import Evaluating
from hedgerow.wire import tensors
from tests.unit.driver.fakes import OK, FakeClient, FakeExchange, fitted, model

LOSS = EvaluateRes(OK, 0.5, 2, {"acc": 0.9})


def server(strategy: FedAvg, *clients: FakeClient) -> tuple[Server, FakeExchange]:
    manager = SimpleClientManager(wait_for_clients_s=0.0)
    for client in clients:
        manager.register(client)
    made, exchange = Server(client_manager=manager, strategy=strategy), FakeExchange()
    made.attach(exchange)
    return made, exchange


def good(name: str) -> FakeClient:
    return FakeClient(name, fitted(2.0), LOSS)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{r.levelname} {re.sub(r'[0-9.]+e?-?[0-9]*s?$', 'T', r.getMessage())}" for r in caplog.records]


def test_log_tells_the_story_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    s, _ = server(FedAvg(evaluate_fn=lambda r, a, c: (float(a[0][0]), {"acc": r})), good("a"), good("bb"))
    s.fit(num_rounds=1, timeout=None)
    story = [
        "INFO Initializing global parameters",
        "INFO Requesting initial parameters from one random client",
        "INFO Received initial parameters from one random client",
        "INFO Evaluating initial parameters",
        r"INFO initial parameters \(loss, other metrics\): [12].0, {'acc': 0}",
        "INFO FL starting",
        r"DEBUG fit_round 1: strategy sampled 2 clients \(out of 2\)",
        r"INFO fit progress: \(1, 2.0, {'acc': 1}, [0-9.e-]+\)",
        r"DEBUG evaluate_round 1: strategy sampled 2 clients \(out of 2\)",
        "WARNING The clients' evaluate metrics are dropped: no evaluate_metrics_aggregation_fn was given",
        "INFO FL finished in T",
    ]
    found = lines(caplog)
    assert len(found) == len(story)
    for expected, line in zip(story, found, strict=True):
        assert re.fullmatch(expected, line), (expected, line)


def test_history_holds_losses_and_metrics_by_round() -> None:
    strategy = FedAvg(
        evaluate_fn=lambda r, a, c: (float(r), {"acc": r / 10}),
        fit_metrics_aggregation_fn=lambda m: {"n": len(m)},
        evaluate_metrics_aggregation_fn=lambda m: {"acc": 0.9},
    )
    s, exchange = server(strategy, good("a"), good("b"))
    history = s.fit(num_rounds=2, timeout=None)
    assert history.losses_centralized == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert history.losses_distributed == [(1, 0.5), (2, 0.5)]
    assert history.metrics_centralized == {"acc": [(0, 0.0), (1, 0.1), (2, 0.2)]}
    assert history.metrics_distributed_fit == {"n": [(1, 2), (2, 2)]}
    assert history.metrics_distributed == {"acc": [(1, 0.9), (2, 0.9)]}
    assert history.failures == {}
    assert exchange.rounds == ["start 0", "finish 0", "start 1", "finish 1", "start 2", "finish 2"]


def test_failures_of_a_round_are_in_the_history_with_their_reasons() -> None:
    error = TaskFailed("ValueError: boom", node="b", kind="fit", reason="user_error")
    bad = FakeClient("b", error, BadUpdate("The loss is nan; it must be finite."))
    s, _ = server(FedAvg(), good("a"), bad)
    history = s.fit(num_rounds=1, timeout=None)
    assert history.failures == {
        1: [
            NodeFailure("fit", "b", "user_error", "ValueError: boom"),
            NodeFailure("evaluate", "b", "bad_update", "The loss is nan; it must be finite."),
        ]
    }
    assert history.losses_distributed == [(1, 0.5)]
    assert "fit of b (user_error): ValueError: boom" in repr(history)


def test_parameters_stay_when_all_clients_fail(caplog: pytest.LogCaptureFixture) -> None:
    clients = [FakeClient(name, BadUpdate("no"), LOSS) for name in ("a", "b")]
    start = Parameters([np.ones(1)])
    s, _ = server(FedAvg(initial_parameters=start), *clients)
    history = s.fit(num_rounds=1, timeout=None)
    assert s.parameters is start
    assert "fit_round 1: no client gave a result; the parameters stay as they are" in caplog.text
    assert len(history.failures[1]) == 2


def test_round_without_instructions_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    class Nobody(FedAvg):
        def configure_fit(self, *args: Any) -> Any:
            return []

    caplog.set_level(logging.INFO)
    s, _ = server(Nobody(fraction_evaluate=0.0, initial_parameters=Parameters([])))
    s.fit(num_rounds=1, timeout=None)
    assert "fit_round 1: no clients selected, cancel" in caplog.text
    assert "evaluate_round 1: no clients selected, cancel" in caplog.text
    assert "Using initial parameters provided by strategy" in caplog.text


def test_clients_are_held_to_what_their_own_instruction_asks_for() -> None:
    s, exchange = server(FedAvg(), good("a"), good("b"))
    s.fit(num_rounds=1, timeout=None)
    assert [[t.name for t in spec.tensors or ()] for spec in exchange.specs] == [["w"], ["w"]]
    assert exchange.specs[0] is exchange.specs[1]


def test_failures_are_counted_also_when_the_strategy_looks_at_nothing() -> None:
    class Careless(FedAvg):
        def aggregate_fit(self, *args: Any) -> Any:
            return None, {}

    s, _ = server(Careless(), good("a"), FakeClient("b", BadUpdate("no"), LOSS))
    assert [f.node for f in s.fit(1, None).failures[1]] == ["b"]


def test_results_of_a_round_can_be_had() -> None:
    s, _ = server(FedAvg(), good("a"), good("b"))
    s.exchange.start_round(1)
    round_ = s.fit_round(1, timeout=None)
    assert round_ is not None
    parameters, _, (results, failures) = round_
    assert parameters is not None
    assert ([c.cid for c, _ in results], list(failures)) == (["a", "b"], [])


def test_error_of_the_strategy_comes_through() -> None:
    class Broken(FedAvg):
        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            for _, res in results:
                assert isinstance(res, FitRes)
            raise ZeroDivisionError("user code")

    s, _ = server(Broken(), good("a"), good("b"))
    with pytest.raises(ZeroDivisionError, match="user code"):
        s.fit(1, None)


def test_client_without_get_parameters_is_named() -> None:
    class Mute(FakeClient):
        def get_parameters(self, ins: Any, timeout: Any) -> Any:
            return GetParametersRes(Status(Code.GET_PARAMETERS_NOT_IMPLEMENTED, ""), Parameters([]))

    s, _ = server(FedAvg(min_available_clients=1), Mute("quiet"))
    with pytest.raises(TaskFailed, match="client quiet has no get_parameters"):
        s.fit(1, None)


def test_server_that_is_not_connected_says_so() -> None:
    with pytest.raises(ConfigError, match="start_driver"):
        Server().fit(1, None)


def test_histories_compare_by_what_they_hold() -> None:
    one, other = History(), History()
    assert one == other
    one.add_loss_centralized(1, 0.5)
    assert one != other


def test_round_without_its_quorum_changes_neither_parameters_nor_the_strategys_state(caplog: pytest.LogCaptureFixture) -> None:
    clients = [good("a"), good("b"), FakeClient("c", BadUpdate("no"), LOSS)]
    strategy = FedAvgM(server_momentum=0.9, initial_parameters=model(1.0))
    s, exchange = server(strategy, *clients)
    s.configure(ServerConfig(min_fit_results=3))
    history = s.fit(1, None)
    assert s.parameters["w"].tolist() == [1.0]
    assert strategy.state_dict() == {"velocity": None}
    assert history.invalid_rounds == {1: "2 of 3 clients gave a result, 3 are needed"}
    assert history.metrics_distributed_fit == {}
    assert "fit_round 1: 2 of 3 clients gave a result, 3 are needed; the parameters stay as they are" in caplog.text
    assert "not valid" in repr(history)
    line = json.loads(exchange.manifests[1])
    assert (line["valid"], line["reason"]) == (False, history.invalid_rounds[1])
    assert [entry.get("reason") for entry in line["fit"]] == ["round_not_valid", "round_not_valid", "bad_update"]


def test_round_with_its_quorum_counts() -> None:
    clients = [good("a"), good("b"), FakeClient("c", BadUpdate("no"), LOSS)]
    s, _ = server(FedAvg(initial_parameters=model(1.0)), *clients)
    s.configure(ServerConfig(min_fit_results=0.6))
    assert s.fit(1, None).invalid_rounds == {}
    assert s.parameters["w"].tolist() == [2.0]


def test_manifest_tells_of_everybody_who_was_asked() -> None:
    late = TaskFailed("no answer within 5 s", node="b", kind="fit", reason="late")
    error = TaskFailed("ValueError: boom", node="c", kind="fit", reason="user_error")
    clients = [good("a"), FakeClient("b", late, LOSS), FakeClient("c", error, LOSS)]
    s, exchange = server(FedAvg(), *clients)
    s.fit(1, None)
    assert exchange.manifests[0] == ""
    line = json.loads(exchange.manifests[1])
    assert (line["round"], line["valid"], line["reason"]) == (1, True, "")
    assert line["fit"] == [
        {"node": "a", "asked": True, "outcome": "contributed", "examples": 1},
        {"node": "b", "asked": True, "outcome": "late", "reason": "late", "message": "no answer within 5 s"},
        {"node": "c", "asked": True, "outcome": "failed", "reason": "user_error", "message": "ValueError: boom"},
    ]
    assert [entry["outcome"] for entry in line["evaluate"]] == ["contributed"] * 3


def test_results_that_the_strategy_did_not_fold_are_excluded_in_the_manifest() -> None:
    s, exchange = server(FedAvg(accept_failures=False), good("a"), FakeClient("b", BadUpdate("no"), LOSS))
    s.fit(1, None)
    assert [entry["reason"] for entry in json.loads(exchange.manifests[1])["fit"]] == ["not_folded", "bad_update"]


def test_manifest_of_a_round_in_which_nobody_was_selected_says_so() -> None:
    class OnlyTheFirst(FedAvg):
        def configure_fit(self, server_round: int, *args: Any) -> Any:
            return [] if server_round > 1 else super().configure_fit(server_round, *args)

    s, exchange = server(OnlyTheFirst(fraction_evaluate=0.0), good("b"), good("a"))
    s.fit(2, None)
    first, second = (json.loads(line) for line in exchange.manifests[1:])
    assert (first["valid"], first["reason"]) == (True, "")
    assert (second["valid"], second["reason"]) == (False, "no clients were selected to train")
    assert second["fit"] == [
        {"node": name, "asked": False, "outcome": "excluded", "reason": "not_sampled"} for name in ("a", "b")
    ]


def test_manifest_tells_of_an_evaluation_that_was_not_used() -> None:
    s, exchange = server(FedAvg(accept_failures=False), good("a"), FakeClient("b", fitted(1.0), BadUpdate("no")))
    history = s.fit(1, None)
    assert history.losses_distributed == []
    entries = json.loads(exchange.manifests[1])["evaluate"]
    assert [(entry["outcome"], entry["reason"]) for entry in entries] == [("excluded", "not_folded"), ("failed", "bad_update")]


def test_round_that_was_sent_is_not_configured_again() -> None:
    class Refusing(FedAvgM):
        def configure_fit(self, *args: Any) -> Any:
            raise AssertionError("configured again")

        def configure_evaluate(self, *args: Any) -> Any:
            raise AssertionError("configured again")

    clients = [good("a"), good("b")]
    s, exchange = server(Refusing(server_learning_rate=0.5, initial_parameters=model(1.0)), *clients)
    exchange.sent = {
        "fit": [(c, FitIns(model(1.0))) for c in clients],
        "evaluate": [(c, EvaluateIns(model(1.5))) for c in clients],
    }
    history = s.fit(1, None)
    assert s.parameters["w"].tolist() == [1.5]
    assert history.losses_distributed == [(1, 0.5)]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (ServerConfig(3, seed=1), "ServerConfig(num_rounds=3, round_timeout=None, seed=1)"),
        (ServerConfig(min_fit_results=0.5), "ServerConfig(num_rounds=1, round_timeout=None, seed=None, min_fit_results=0.5)"),
        (ServerConfig(grace_s=0), "ServerConfig(num_rounds=1, round_timeout=None, seed=None, grace_s=0)"),
    ],
)
def test_config_shows_what_is_set(config: ServerConfig, text: str) -> None:
    assert repr(config) == text
    config.check()


@pytest.mark.parametrize(("part", "asked", "expected"), [(1, 10, 1), (4, 3, 4), (0.5, 5, 3), (1.0, 7, 7), (0.01, 7, 1)])
def test_quorum_is_a_number_or_a_part(part: float, asked: int, expected: int) -> None:
    assert ServerConfig(min_fit_results=part).quorum(asked) == expected


@pytest.mark.parametrize(
    "arguments", [{"min_fit_results": 0}, {"min_fit_results": 1.5}, {"min_fit_results": 0.0}, {"grace_s": -1}]
)
def test_quorum_and_grace_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        ServerConfig(**arguments).check()


class Arrays(FedAvg):
    """Gives arrays, as a strategy does that knows of no files."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Parameters | None, dict[str, Any]]:
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        assert parameters is not None
        return Parameters({name: np.array(array) for name, array in parameters.items()}), metrics


@pytest.mark.parametrize("kind", [FedAvg, Arrays, FedAvgM])
def test_large_parameters_are_sent_and_kept_from_a_file_whatever_the_strategy_gives(
    kind: type[FedAvg], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_files, "MIN_BYTES", 1)
    files = ParameterFiles(tmp_path)
    in_files: list[Path | None] = []

    def noted(run: Server, exchange: FakeExchange) -> Server:
        fit = exchange.fit

        def fitting(instructions: Any, specs: Any, timeout: Any) -> Any:
            in_files.extend(files.path(ins.parameters) for _, ins in instructions)
            return fit(instructions, specs, timeout)

        monkeypatch.setattr(exchange, "fit", fitting)
        run.attach(exchange, None, files)
        return run

    plain, _ = server(kind(), good("a"), good("b"))
    plain.fit(num_rounds=2, timeout=None)
    filed = noted(*server(Evaluating(kind()), good("a"), good("b")))  # type: ignore[arg-type]
    filed.fit(num_rounds=2, timeout=None)
    assert tensors.dumps(filed.parameters) == tensors.dumps(plain.parameters)
    assert len(in_files) == 4
    assert None not in in_files
    assert files.path(filed.parameters) is not None
    files.close()

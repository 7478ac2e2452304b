"""The rounds of a run: configure, train, fold, evaluate.

The name is Flower's: it serves the strategy inside the driver's process and has nothing to do with ``flower-server``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeAlias

from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.driver.answers import reason_of
from hedgerow.driver.asynchronous import AsynchronousRounds, Version
from hedgerow.driver.callbacks import Callback, Callbacks
from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.driver.client_manager import SimpleClientManager
from hedgerow.driver.config import ServerConfig
from hedgerow.driver.exchange import Exchange
from hedgerow.driver.history import History, NodeFailure
from hedgerow.driver.manifest import NOBODY, NOT_FOLDED, NOT_VALID, NodeEntry, manifest_line, not_asked_entries, phase_entries
from hedgerow.driver.parameter_files import ParameterFiles
from hedgerow.driver.results import Failed, Results
from hedgerow.errors import ConfigError, InvalidArgument, TaskFailed
from hedgerow.records import Code, EvaluateRes, FitRes, GetParametersIns, Kind, Metrics, Parameters
from hedgerow.strategy.asynchronous import AsynchronousStrategy
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import EvaluateResults, Failures, FitResults, Strategy

log = logging.getLogger(__name__)

FitRound: TypeAlias = tuple[Parameters | None, Metrics, tuple[FitResults, Failures]]
EvaluateRound: TypeAlias = tuple[float | None, Metrics, tuple[EvaluateResults, Failures]]


class Record(Protocol):
    """What keeps a run's rounds, so that another process can take the run up."""

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        """A round is over. ``kept`` is called when it stays so: before this returns, or while the next round goes on.

        Raises:
            Exception: What went wrong with this round, or with the one before it.
        """

    def settle(self) -> None:
        """Wait until all rounds are kept.

        Raises:
            Exception: What went wrong.
        """


class Server:
    """Runs the rounds of one run with a strategy.

    Args:
        client_manager: Who is available.
        strategy: What is asked of whom; :class:`~hedgerow.strategy.FedAvg` if not given.
    """

    def __init__(self, *, client_manager: ClientManager | None = None, strategy: Strategy | None = None) -> None:
        self._client_manager: ClientManager = SimpleClientManager() if client_manager is None else client_manager
        self.strategy: Strategy = FedAvg() if strategy is None else strategy
        self.parameters = Parameters({})
        self.max_workers: int | None = None
        self.history = History()
        self._exchange: Exchange | None = None
        self._record: Record | None = None
        self._files: ParameterFiles | None = None
        self._taken_up: Checkpoint | None = None
        self._config = ServerConfig()
        self._phases: dict[str, list[NodeEntry]] = {}
        self._callbacks = Callbacks()
        self._asynchronous: AsynchronousRounds | None = None
        self._num_rounds = 0
        self._nobody = ""

    def configure(self, config: ServerConfig) -> None:
        """When a round is valid; :func:`~hedgerow.driver.start_driver` calls this."""
        self._config = config

    def call_back(self, callbacks: Sequence[Callback]) -> None:
        """Whom to tell when a round is over; :func:`~hedgerow.driver.start_driver` calls this."""
        self._callbacks = Callbacks(callbacks)

    def attach(self, exchange: Exchange, record: Record | None = None, files: ParameterFiles | None = None) -> None:
        """What carries instructions to clients, what keeps rounds, and where large parameters lie.

        :func:`~hedgerow.driver.start_driver` calls this.
        """
        self._exchange = exchange
        self._record = record
        self._files = files

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on after a round that an earlier process of the same run has finished; comes before :meth:`fit`.

        Raises:
            ConfigError: The checkpoint is another strategy's.
        """
        name = type(self.strategy).__name__
        if checkpoint.strategy != name:
            raise ConfigError(
                f"The run was started with the strategy {checkpoint.strategy}, not {name}. Resume it with the same one."
            )
        try:
            self.strategy.load_state_dict(checkpoint.strategy_state)
        except InvalidArgument as error:
            raise ConfigError(f"The strategy {name} does not take its state back: {error}") from error
        self.history.load_state_dict(checkpoint.history)
        self.parameters = checkpoint.parameters
        self._taken_up = checkpoint

    def set_max_workers(self, max_workers: int | None) -> None:
        """Accepted for code that was written for Flower; all clients work at once here, without a thread for each."""
        self.max_workers = max_workers

    def set_strategy(self, strategy: Strategy) -> None:
        """Replace the strategy."""
        self.strategy = strategy

    def client_manager(self) -> ClientManager:
        """Who is available."""
        return self._client_manager

    @property
    def exchange(self) -> Exchange:
        """What carries instructions to clients.

        Raises:
            ConfigError: There is nothing yet.
        """
        if self._exchange is None:
            raise ConfigError("The server is not connected to clients. Hand it to start_driver(server=…).")
        return self._exchange

    def fit(self, num_rounds: int, timeout: float | None) -> History:
        """Run all rounds, or those that are left where the run is taken up again.

        Args:
            num_rounds: How many.
            timeout: Seconds that clients have for each fit and evaluate; None for as long as it takes.
        """
        done = self._taken_up
        self.strategy.room = self._files
        if done is None:
            self._initialize(timeout)
        else:
            log.info("Resuming the run after round %s", done.round, extra={"action": "run_resumed", "round": done.round})
            oldest = min((server_round for server_round, _ in done.pending), default=None)
            self.exchange.finish_round(done.round, done.manifest, oldest)  # the earlier process may have died before it could
        self._num_rounds = num_rounds
        log.info("FL starting")
        started = time.perf_counter()
        server_round = 0 if done is None else done.round
        try:
            stop = self._tell_round_ended(server_round, "" if done is None else done.manifest)
            while server_round < num_rounds and not stop:
                server_round += 1
                self._start_round(server_round)
                self._run_round(server_round, timeout, started)
                stop = self._tell_round_ended(server_round, self._finish_round(server_round))
            if self._record is not None:
                self._record.settle()
        finally:
            self._callbacks.run_ended(self.history)
        if stop:
            if self._asynchronous is not None:
                self._asynchronous.end(Version())
            log.info("Stopped after round %s: %s", server_round, stop, extra={"action": "run_stopped_early"})
        log.info("FL finished in %s", time.perf_counter() - started, extra={"action": "run_finished"})
        return self.history

    def is_over(self, num_rounds: int) -> bool:
        """Whether the round after which a run is taken up was its last: the last of all, or one after which a callback stops."""
        done = self._taken_up
        if done is None:
            return False
        try:
            return bool(self._tell_round_ended(done.round, done.manifest)) or done.round >= num_rounds
        finally:
            self._callbacks.run_ended(self.history)

    def _tell_round_ended(self, server_round: int, manifest: str) -> str:
        """Call the callbacks; returns why the run ends here, or ""."""
        return self._callbacks.round_ended(server_round, self.parameters, self.history, manifest)

    def _initialize(self, timeout: float | None) -> None:
        self._start_round(0)
        log.info("Initializing global parameters")
        self.parameters = self._filed(self._get_initial_parameters(timeout))
        log.info("Evaluating initial parameters")
        evaluated = self.strategy.evaluate(0, self.parameters)
        if evaluated is not None:
            log.info("initial parameters (loss, other metrics): %s, %s", evaluated[0], evaluated[1])
            self.history.add_loss_centralized(0, evaluated[0])
            self.history.add_metrics_centralized(0, evaluated[1])
        self._finish_round(0)

    def _finish_round(self, server_round: int) -> str:
        """Keep what there is; then the clients' results, and the server's blobs, are not needed. Returns the manifest's line."""
        reason = self.history.invalid_rounds.get(server_round, self._nobody)
        manifest = manifest_line(server_round, reason, self._phases) if server_round else ""
        rounds = self._asynchronous
        kept = partial(
            self.exchange.finish_round, server_round, manifest, None if rounds is None else rounds.flights.oldest_round
        )
        if self._record is None:
            kept()
        else:
            name, state = type(self.strategy).__name__, self.strategy.state_dict()
            checkpoint = Checkpoint(server_round, self.parameters, name, state, self.history.state_dict(), manifest)
            if rounds is not None:
                checkpoint = replace(checkpoint, cursor=rounds.cursor, pending=rounds.flights.pending)
            self._record.write(checkpoint, kept)
            if self._callbacks:  # they are told of a round that is kept
                self._record.settle()
        return manifest

    def _filed(self, parameters: Parameters) -> Parameters:
        """Large parameters as views of a file: sent and kept from there, they need not be held."""
        return parameters if self._files is None else self._files.filed(parameters)

    def _run_round(self, server_round: int, timeout: float | None, started: float) -> None:
        if isinstance(self.strategy, AsynchronousStrategy):
            fitted: FitRound | None = self._make_version(self.strategy, server_round, timeout)
        else:
            fitted = self.fit_round(server_round, timeout)
        if fitted is not None:
            if fitted[0] is not None and len(fitted[0]):
                self.parameters = self._filed(fitted[0])
            self.history.add_metrics_distributed_fit(server_round, fitted[1])
        del fitted  # the updates are not needed any longer
        evaluated = self.strategy.evaluate(server_round, self.parameters)
        if evaluated is not None:
            elapsed = time.perf_counter() - started
            log.info("fit progress: (%s, %s, %s, %s)", server_round, evaluated[0], evaluated[1], elapsed)
            self.history.add_loss_centralized(server_round, evaluated[0])
            self.history.add_metrics_centralized(server_round, evaluated[1])
        federated = self.evaluate_round(server_round, timeout)
        if federated is not None and federated[0] is not None:
            self.history.add_loss_distributed(server_round, federated[0])
            self.history.add_metrics_distributed(server_round, federated[1])

    def fit_round(self, server_round: int, timeout: float | None) -> FitRound | None:
        """One round of training.

        Returns:
            New parameters (None: the old ones stay), metrics, and the results and failures; or None if nobody was asked.
        """
        instructions = self.exchange.sent_fit(self.parameters)
        if instructions is None:
            instructions = self.strategy.configure_fit(server_round, self.parameters, self._client_manager)
        elif instructions:
            self.strategy.resume_fit(server_round, self.parameters, instructions)
        if not instructions:
            log.info("fit_round %s: no clients selected, cancel", server_round)
            self._nobody = NOBODY
            self._phases[str(Kind.FIT)] = not_asked_entries(self._client_manager.all())
            return None
        self._log_sampled("fit", server_round, instructions)
        specs: dict[int, UpdateSpec] = {}
        for _, ins in instructions:  # usually one instruction for all
            if id(ins) not in specs:
                specs[id(ins)] = self.strategy.update_spec(server_round, ins)
        results = self.exchange.fit(instructions, [specs[id(ins)] for _, ins in instructions], timeout)
        before = self.strategy.state_dict()
        parameters, metrics = self.strategy.aggregate_fit(server_round, results, results.failures)
        unused = ""
        if not self._is_valid(server_round, self._settled(Kind.FIT, server_round, results), len(instructions)):
            self.strategy.load_state_dict(before)
            parameters, metrics, unused = None, {}, NOT_VALID
        elif parameters is None:
            log.warning("fit_round %s: the strategy gave no new parameters; they stay as they are", server_round)
            unused = NOT_FOLDED
        self._phases[str(Kind.FIT)] = phase_entries(results, unused)
        return parameters, metrics, (results, results.failures)

    def _make_version(self, strategy: AsynchronousStrategy, server_round: int, timeout: float | None) -> FitRound:
        """A round of an asynchronous strategy; the first one takes up what an earlier process has under way."""
        rounds = self._asynchronous
        if rounds is None:
            done, flights = self._taken_up, self.exchange.flights
            cursor = 0 if done is None else done.cursor or 0
            rounds = self._asynchronous = AsynchronousRounds(strategy, self._client_manager, flights, cursor)
            pending = () if done is None else done.pending
            flights.take_up(pending, server_round, self.parameters, strategy.update_spec, timeout)
        version = rounds.make_version(server_round, self.parameters, timeout)
        if server_round == self._num_rounds:
            rounds.end(version)
        if version.reason:
            log.warning("fit_round %s: %s", server_round, version.reason, extra={"action": "round_not_valid"})
            self.history.add_invalid_round(server_round, version.reason)
        self.history.add_failures(server_round, version.failures)
        self._phases[str(Kind.FIT)] = version.entries
        return version.parameters, version.metrics, ([], [])

    def evaluate_round(self, server_round: int, timeout: float | None) -> EvaluateRound | None:
        """One evaluation by the clients.

        Returns:
            Loss (None: there is none), metrics, and the results and failures; or None if nobody was asked.
        """
        instructions = self.exchange.sent_evaluate(self.parameters)
        if instructions is None:
            instructions = self.strategy.configure_evaluate(server_round, self.parameters, self._client_manager)
        else:
            self.strategy.resume_evaluate(server_round, self.parameters, instructions)
        if not instructions:
            log.info("evaluate_round %s: no clients selected, cancel", server_round)
            return None
        self._log_sampled("evaluate", server_round, instructions)
        results = self.exchange.evaluate(instructions, timeout)
        loss, metrics = self.strategy.aggregate_evaluate(server_round, results, results.failures)
        if not self._settled(Kind.EVALUATE, server_round, results):
            log.warning("evaluate_round %s: no client gave a result", server_round)
        self._phases[str(Kind.EVALUATE)] = phase_entries(results, NOT_FOLDED if loss is None else "")
        return loss, metrics, (results, results.failures)

    def _log_sampled(self, phase: str, server_round: int, instructions: Sequence[tuple[ClientProxy, object]]) -> None:
        log.debug(
            "%s_round %s: strategy sampled %s clients (out of %s)",
            phase,
            server_round,
            len(instructions),
            self._client_manager.num_available(),
        )

    def _is_valid(self, server_round: int, results: int, asked: int) -> bool:
        """Whether a round has its quorum."""
        quorum = self._config.quorum(asked)
        if results >= quorum:
            return True
        what = f"{results} of {asked} clients gave a result, {quorum} are needed" if results else "no client gave a result"
        log.warning("fit_round %s: %s; the parameters stay as they are", server_round, what, extra={"action": "round_not_valid"})
        self.history.add_invalid_round(server_round, what)
        return False

    def _settled(self, kind: Kind, server_round: int, results: Results[FitRes] | Results[EvaluateRes]) -> int:
        """Wait for what the strategy did not wait for, note failures, and return the number of results."""
        failures = [_node_failure(kind, failed) for failed in results.failed()]
        self.history.add_failures(server_round, failures)
        return len(results)

    def _start_round(self, server_round: int) -> None:
        self._phases = {str(Kind.FIT): [], str(Kind.EVALUATE): []}
        self._nobody = ""
        self.exchange.start_round(server_round)
        self._client_manager.start_round(server_round, self.exchange.run_seed)

    def _get_initial_parameters(self, timeout: float | None) -> Parameters:
        parameters = self.strategy.initialize_parameters(self._client_manager)
        if parameters is not None:
            log.info("Using initial parameters provided by strategy")
            return parameters
        log.info("Requesting initial parameters from one random client")
        # Waits for as many as a round needs, so that the choice does not depend on who came first.
        sampled = self._client_manager.sample(1, max(1, self.strategy.min_available_clients))
        if not sampled:
            raise ConfigError("No client could be sampled to ask for initial parameters.")
        res = sampled[0].get_parameters(GetParametersIns({}), timeout)
        if res.status.code is not Code.OK:
            raise TaskFailed(
                f"The client {sampled[0].cid} has no get_parameters. Write that method, or give the strategy initial_parameters.",
                node=sampled[0].cid,
                kind=str(Kind.GET_PARAMETERS),
                reason="not_implemented",
            )
        log.info("Received initial parameters from one random client")
        return res.parameters


def _node_failure(kind: Kind, failed: Failed) -> NodeFailure:
    return NodeFailure(str(kind), failed.client.cid, reason_of(failed.error), str(failed.error))

"""``start_driver``: one call from a user's script, notebook or Hydra program that runs one federated-learning job."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hedgerow import logs
from hedgerow.certificates import Tls
from hedgerow.driver.callbacks import Callback
from hedgerow.driver.client_manager import SimpleClientManager
from hedgerow.driver.config import DriverLimits, ServerConfig
from hedgerow.driver.driver import DEFAULT_PORT, DEFAULT_SERVER_ADDRESS, Driver
from hedgerow.driver.exchange import DriverExchange, NodeProxy
from hedgerow.driver.history import History
from hedgerow.driver.parameter_files import ParameterFiles
from hedgerow.driver.record import FolderRecord
from hedgerow.driver.run_folder import RunFolder, RunRecord
from hedgerow.driver.server import Server
from hedgerow.errors import ConfigError, HedgerowError, InvalidTransition, RunEnded
from hedgerow.records import Node
from hedgerow.security import Identity, Role
from hedgerow.strategy.clients import ClientManager
from hedgerow.strategy.strategy import Strategy
from hedgerow.wire.channel import Address
from hedgerow.wire.narrow import check_transport_dtype

log = logging.getLogger(__name__)


def start_driver(
    *,
    server_address: str = DEFAULT_SERVER_ADDRESS,
    server: Server | None = None,
    config: ServerConfig | None = None,
    strategy: Strategy | None = None,
    client_manager: ClientManager | None = None,
    root_certificates: bytes | str | Path | None = None,
    certificates: Sequence[str | Path] | None = None,
    run_name: str = "",
    limits: DriverLimits | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    transport_dtype: str | None = None,
) -> History:
    """Run one job over the clients that are connected to a server, and return what it gave.

    Blocks until the run is over. Works from any thread, also under a running asyncio loop. In the main thread SIGTERM does what
    Ctrl-C does, unless the program handles it itself.

    A run without a folder ends when this raises: it is FAILED then, or STOPPED after Ctrl-C. A run with a folder stays open: the
    server shows it as interrupted, and ``resume`` goes on with it when the cause is mended (a full disk, clients that did not
    come, an error in the strategy). ``hedgerow stop RUN`` ends it for good; so does the server when nobody has come back for a
    week.

    Args:
        server_address: ``host:port`` of the server's Driver API.
        server: Runs the rounds, with its own strategy and client manager, whatever else is given here; made from those two
            arguments if not given.
        config: Rounds, time limit and seed.
        strategy: What is asked of whom; FedAvg if not given.
        client_manager: Samples clients; a seeded :class:`~hedgerow.driver.SimpleClientManager` if not given.
        root_certificates: The certificate authority: PEM bytes, or the path of a file. For servers that ask for no certificate.
        certificates: Paths of the CA's certificate, the own certificate and its key, as ``hedgerow provision`` makes them.
            Without it and ``root_certificates``, what the environment variable ``HEDGEROW_CERTIFICATES`` names (joined as in
            ``PATH``); without that, too, the connection is insecure.
        run_name: For people: shown in the server's log and tables.
        limits: How long to wait for what.
        checkpoint_dir: The run's folder: after each round (of rounds that take milliseconds, every tenth of a second), all that
            the next ones depend on is kept there. Made where it is missing.
        resume: The folder of a run whose driver died or gave up. The run goes on in the round in which it was: who was asked is
            not asked again, results that are there are used, and the outcome is the same, bit for bit. Give the other arguments
            as the first time.
        callbacks: Told when a round is over, in their order; each may end the run, which is FINISHED then.
        transport_dtype: "bfloat16" or "float16": tensors of float32 and float64 travel in that, to the clients and back. None: in
            their own dtypes. What is kept here is not rounded; clients train on the rounded model, in its own dtypes. A client
            that does not know the 16-bit float takes and gives full precision, which the log tells. A run that is resumed keeps
            what it had.

    Raises:
        ConfigError: An argument is wrong, or the folder to resume from is another run's.
        CorruptData: The folder to resume from is damaged.
        WaitTimeout: The server or the clients did not come in time.
        RunEnded: The run was ended by somebody else.
        Exception: Whatever the strategy or a callback raises.
    """
    logs.show()
    limits = limits or DriverLimits()
    config = config or ServerConfig()
    config.check()
    if server is None:
        manager = SimpleClientManager(limits.wait_for_clients_s) if client_manager is None else client_manager
        server = Server(client_manager=manager, strategy=strategy)
    elif strategy is not None or client_manager is not None:
        log.warning("Both a server and a strategy or client_manager were given; the server's own are used")
    server.call_back(callbacks)
    tls = Tls.of(certificates, root_certificates)
    Address.parse(server_address, DEFAULT_PORT)  # a wrong one leaves no folder behind
    check_transport_dtype(transport_dtype)
    folder = _open_folder(checkpoint_dir, resume, run_name, config, transport_dtype)
    try:
        with _sigterm_as_ctrl_c():
            run = _Run(server, config, folder, resume is not None, transport_dtype)
            return run.carry_out(server_address, tls, run_name, limits)
    finally:
        if folder is not None:
            folder.close()


def _open_folder(
    checkpoint_dir: str | Path | None,
    resume: str | Path | None,
    run_name: str,
    config: ServerConfig,
    transport_dtype: str | None,
) -> RunFolder | None:
    if resume is None:
        if checkpoint_dir is None:
            return None
        seed = secrets.randbits(63) if config.seed is None else config.seed
        identity = Identity.fresh(Role.DRIVER)
        record = RunRecord(secrets.token_hex(16), run_name, seed, identity, transport_dtype=transport_dtype or "")
        return RunFolder.create(Path(checkpoint_dir), record)
    if checkpoint_dir is not None and Path(checkpoint_dir).absolute() != Path(resume).absolute():
        raise ConfigError(f"A run that is resumed keeps its folder {resume}; give no checkpoint_dir, or the same one.")
    folder = RunFolder.open(Path(resume))
    if config.seed not in (None, folder.record.seed):
        seed = folder.record.seed
        folder.close()
        raise ConfigError(f"The run in {resume} has the seed {seed}, not {config.seed}. Give that one, or none.")
    kept = folder.record.transport_dtype or None
    if transport_dtype not in (None, kept):
        folder.close()
        raise ConfigError(f"The run in {resume} has the transport_dtype {kept}, not {transport_dtype}. Leave it out.")
    return folder


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Nobody handles SIGTERM: let it unwind the program, so that the server is told."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminated(number: int, frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _ending(driver: Driver, folder: RunFolder | None) -> Iterator[None]:
    """End the run with what it is wrapped around; a run that has a folder only if that went well."""
    if folder is None:
        with driver:
            yield
        return
    try:
        yield
        driver.end_with(None)
    except BaseException as error:
        if not isinstance(error, RunEnded):
            log.warning(
                "The run %s is not over. Go on with it: start_driver(resume=%r). End it for good: hedgerow stop %s",
                driver.run_id,
                str(folder.path),
                driver.run_id,
                extra={"action": "run_left_open", "run": driver.run_id},
            )
        raise
    finally:
        driver.close()


class _Run:
    """One call of :func:`start_driver`."""

    def __init__(
        self, server: Server, config: ServerConfig, folder: RunFolder | None, resumed: bool, transport_dtype: str | None
    ) -> None:
        self._server = server
        self._config = config
        self._folder = folder
        self._transport_dtype = transport_dtype
        self._checkpoint = folder.read_checkpoint() if folder is not None and resumed else None

    def carry_out(self, server_address: str, tls: Tls | None, run_name: str, limits: DriverLimits) -> History:
        """Open the run, or take it up, and run its rounds."""
        if self._checkpoint is not None:
            self._server.take_up(self._checkpoint)  # refuses before anything is sent
        driver = self._driver(server_address, tls, run_name, limits)
        try:
            driver.connect()
        except InvalidTransition:
            if not self._server.is_over(self._config.num_rounds):
                raise
            log.info("The run %s had finished already", driver.run_id, extra={"action": "run_finished"})
            return self._server.history
        try:
            self._check(driver)
        except BaseException:
            driver.close()  # not ended: the run is not this folder's to end
            raise
        with _ending(driver, self._folder):
            history = self._rounds(driver)
        _log_history(history)
        return history

    def _driver(self, address: str, tls: Tls | None, run_name: str, limits: DriverLimits) -> Driver:
        if self._folder is None:
            seed = self._config.seed
            return Driver(address, tls=tls, run_name=run_name, seed=seed, limits=limits, transport_dtype=self._transport_dtype)
        record = self._folder.record
        files = ParameterFiles(self._folder.path)
        if self._checkpoint is not None:
            files.adopt(self._checkpoint.parameters, self._folder.parameters_file(self._checkpoint.round))
        return Driver(
            address,
            tls=tls,
            run_name=record.name,
            seed=record.seed,
            limits=limits,
            run_id=record.run_id,
            identity=record.identity,
            server_id=record.server_id,
            after_result=0 if self._checkpoint is None else self._checkpoint.cursor or 0,
            files=files,
            transport_dtype=record.transport_dtype or None,
        )

    def _check(self, driver: Driver) -> None:
        """See whether the server knows of no more rounds than the folder."""
        if self._folder is None:
            return
        kept = 0 if self._checkpoint is None else self._checkpoint.round + 1
        if driver.watcher.acknowledged_rounds > kept:
            raise ConfigError(
                f"The run {driver.run_id} has got further than {self._folder.path} knows: the server has released "
                f"{driver.watcher.acknowledged_rounds} rounds, the folder holds {kept}. Resume from the run's own, newest folder."
            )
        if self._checkpoint is None:
            self._folder.note_server(driver.watcher.server_id)

    def _rounds(self, driver: Driver) -> History:
        log.info("Starting Flower server, config: %s", self._config, extra={"action": "run_started", "run": driver.run_id})
        log.debug("Run %s, seed %s", driver.run_id, driver.seed)
        if driver.transport_dtype:
            log.info("Parameters travel as %s", driver.transport_dtype)
        manager, folder = self._server.client_manager(), self._folder
        if folder is not None and self._checkpoint is not None:
            driver.tell_manifest(folder.manifest_from(driver.watcher.acknowledged_rounds))
        exchange = DriverExchange(driver, manager, None if folder is None else folder.journal, self._config)
        self._server.configure(self._config)
        record = None if folder is None else FolderRecord(folder, driver)
        self._server.attach(exchange, record, driver.files)
        ClientRegister(driver, exchange, manager).follow()
        try:
            return self._server.fit(num_rounds=self._config.num_rounds, timeout=self._config.round_timeout)
        finally:
            exchange.close()
            if record is not None:
                record.close()


def _log_history(history: History) -> None:
    log.info("app_fit: losses_distributed %s", history.losses_distributed)
    log.info("app_fit: metrics_distributed_fit %s", history.metrics_distributed_fit)
    log.info("app_fit: metrics_distributed %s", history.metrics_distributed)
    log.info("app_fit: losses_centralized %s", history.losses_centralized)
    log.info("app_fit: metrics_centralized %s", history.metrics_centralized)


class ClientRegister:
    """Keeps a client manager in step with the nodes that the server pushes."""

    def __init__(self, driver: Driver, exchange: DriverExchange, manager: ClientManager) -> None:
        self._driver = driver
        self._exchange = exchange
        self._manager = manager
        self._lock = threading.Lock()
        self._proxies: dict[str, NodeProxy] = {}
        self._refused: set[str] = set()

    def follow(self) -> None:
        """Register the nodes that are there now, and follow all changes."""
        self._driver.subscribe(self._changed, self._manager.abort)

    def _changed(self, node_ids: Collection[str]) -> None:
        with self._lock:
            try:
                known = self._driver.mirror.find([*node_ids, *self._refused])
            except HedgerowError:  # the run has ended; abort() tells the manager
                return
            available = {node_id: node for node_id, node in known.items() if node.state.available}
            for node_id in node_ids:
                proxy, node = self._proxies.get(node_id), available.get(node_id)
                if proxy is not None and (node is None or node.name != proxy.cid):
                    self._manager.unregister(self._proxies.pop(node_id))
                    log.debug("Client %s is not available any longer", proxy.cid)
            self._refused.clear()
            for node in sorted(available.values(), key=lambda n: (n.name, n.node_id)):
                if node.node_id not in self._proxies:
                    self._register(node)

    def _register(self, node: Node) -> None:
        proxy = NodeProxy(node, self._exchange)
        if self._manager.register(proxy):
            self._proxies[node.node_id] = proxy
            log.debug("Client %s is available", node.name)
        else:  # another node of that name is there; its end is a change, too
            self._refused.add(node.node_id)

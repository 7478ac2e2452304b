"""``start_driver``: one call from a user's script, notebook or Hydra program that runs one federated-learning job."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from hedgerow import logs
from hedgerow.driver.client_manager import SimpleClientManager
from hedgerow.driver.config import DriverLimits, ServerConfig
from hedgerow.driver.driver import DEFAULT_SERVER_ADDRESS, Driver
from hedgerow.driver.exchange import DriverExchange, NodeProxy
from hedgerow.driver.history import History
from hedgerow.driver.server import Server
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.security import read_pem
from hedgerow.strategy.clients import ClientManager
from hedgerow.strategy.strategy import Strategy

log = logging.getLogger(__name__)


def start_driver(
    *,
    server_address: str = DEFAULT_SERVER_ADDRESS,
    server: Server | None = None,
    config: ServerConfig | None = None,
    strategy: Strategy | None = None,
    client_manager: ClientManager | None = None,
    root_certificates: bytes | str | Path | None = None,
    run_name: str = "",
    limits: DriverLimits | None = None,
) -> History:
    """Run one job over the clients that are connected to a server, and return what it gave.

    Blocks until the run is over. Works from any thread, also under a running asyncio loop.

    Args:
        server_address: ``host:port`` of the server's Driver API.
        server: Runs the rounds, with its own strategy and client manager; made from those two arguments if not given.
        config: Rounds, time limit and seed.
        strategy: What is asked of whom; FedAvg if not given.
        client_manager: Samples clients; a seeded :class:`~hedgerow.driver.SimpleClientManager` if not given.
        root_certificates: The certificate authority: PEM bytes, or the path of a file. Without it the connection is insecure.
        run_name: For people: shown in the server's log and tables.
        limits: How long to wait for what.

    Raises:
        ConfigError: An argument is wrong.
        WaitTimeout: The server or the clients did not come in time.
        RunEnded: The run was ended by somebody else.
        Exception: Whatever the strategy raises; the run is FAILED then.
    """
    logs.show()
    limits = limits or DriverLimits()
    config = config or ServerConfig()
    config.check()
    if server is None:
        manager = client_manager or SimpleClientManager(limits.wait_for_clients_s)
        server = Server(client_manager=manager, strategy=strategy)
    elif strategy is not None or client_manager is not None:
        raise ConfigError("Give start_driver either a server, or a strategy and a client_manager; the server has its own.")
    if isinstance(root_certificates, str | Path):
        root_certificates = read_pem(Path(root_certificates))
    driver = Driver(server_address, root_certificates=root_certificates, run_name=run_name, seed=config.seed, limits=limits)
    with driver:
        log.info("Starting Flower server, config: %s", config, extra={"action": "run_started", "run": driver.run_id})
        log.debug("Run %s, seed %s", driver.run_id, driver.seed)
        exchange = DriverExchange(driver)
        server.attach(exchange)
        ClientRegister(driver, exchange, server.client_manager()).follow()
        try:
            history = server.fit(num_rounds=config.num_rounds, timeout=config.round_timeout)
        finally:
            exchange.close()
    _log_history(history)
    return history


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
        self._proxies: dict[tuple[str, str], NodeProxy] = {}

    def follow(self) -> None:
        """Register the nodes that are there now, and follow all changes."""
        self._driver.subscribe(self._changed, self._manager.abort)

    def _changed(self) -> None:
        with self._lock:
            try:
                nodes = {(node.node_id, node.name): node for node in self._driver.nodes()}
            except HedgerowError:  # the run has ended; abort() tells the manager
                return
            for key in [key for key in self._proxies if key not in nodes]:
                self._manager.unregister(self._proxies.pop(key))
                log.debug("Client %s is not available any longer", key[1])
            for key, node in nodes.items():
                if key not in self._proxies:
                    proxy = NodeProxy(node, self._exchange)
                    # Refused while another node of that name is there; its end is a change, too.
                    if self._manager.register(proxy):
                        self._proxies[key] = proxy
                        log.debug("Client %s is available", node.name)

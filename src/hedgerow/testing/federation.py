"""A whole federation on one machine: server, clients and drivers as real processes, the links between them optionally faulty."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import CERTIFICATES_VARIABLE, Certificates
from hedgerow.errors import AlreadyExists
from hedgerow.security import Role
from hedgerow.testing.fault_proxy import FaultProxy
from hedgerow.testing.processes import Process, eventually, free_port
from hedgerow.waits import Limit
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

LINKS = ("fleet", "driver", "blob")
METRICS_S = 5.0
UP = Limit("server_up_s", 60.0)
SESSIONS = Limit("sessions_s", 60.0)
# The commands from the interpreter and the path that this process has, wherever the installed scripts point to.
_COMMAND = "import sys; from hedgerow.cli.{0} import main; sys.argv[0] = 'flower-{0}'; sys.exit(main())"


class Federation:
    """A server, its clients and drivers on 127.0.0.1; all of them are gone when the ``with`` block ends.

    Args:
        folder: Where state directories and logs go; the ports stay the same over restarts.
        proxied: Whether clients and drivers reach the server through a :class:`FaultProxy` for each of its three ports.
        env: Environment variables of all processes on top of this process's own.
        tls: Whether everybody shows a certificate to everybody; drivers get theirs by an environment variable.

    Attributes:
        authority: What made the certificates; None without ``tls``.
        links: The proxies ``fleet``, ``driver`` and ``blob``; empty unless ``proxied``.
        clients: The clients by name.
    """

    def __init__(self, folder: Path, *, proxied: bool = False, env: Mapping[str, str] | None = None, tls: bool = False) -> None:
        self.folder = folder
        self.links: dict[str, FaultProxy] = {}
        self.clients: dict[str, Process] = {}
        self.drivers: list[Process] = []
        self._env = dict(env or {})
        self._own = {name: Address("127.0.0.1", free_port()) for name in (*LINKS, "web")}
        self._seen = dict(self._own)
        self._server: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority.create(folder / "certificates") if tls else None
        if proxied:
            for name in LINKS:
                self.links[name] = FaultProxy(self._own[name]).start()
                self._seen[name] = self.links[name].address

    @property
    def fleet(self) -> Address:
        """Address of the Fleet API as clients know it."""
        return self._seen["fleet"]

    @property
    def driver(self) -> Address:
        """Address of the Driver API as drivers know it."""
        return self._seen["driver"]

    @property
    def server(self) -> Process:
        """The server."""
        assert self._server is not None, "start_server() comes first"
        return self._server

    @property
    def database(self) -> Path:
        """The server's database file."""
        return self.folder / "server" / "hedgerow.sqlite3"

    def start_server(self, *options: str) -> Process:
        """Start the server and wait until it serves.

        Raises:
            WaitTimeout: It does not.
        """
        command = [sys.executable, "-c", _COMMAND.format("server"), f"--state-dir={self.folder / 'server'}"]
        command += self._security("server", Role.SERVER)
        if self.authority is not None:
            command.append(f"--revoked={self.authority.folder / 'server' / 'revoked.pem'}")
        for flag, name in (("fleet-api", "fleet"), ("driver-api", "driver"), ("blob", "blob"), ("web", "web")):
            command.append(f"--{flag}-address={self._own[name].text}")
        if self.links:
            scheme = "http" if self.authority is None else "https"
            command.append(f"--blob-public-url={scheme}://{self._seen['blob'].text}")
        self._server = Process("server", [*command, *options], self.folder / "server.log", self._env).start()
        self.wait_until_up()
        return self._server

    def wait_until_up(self) -> None:
        """Wait until the server serves, for example after it was started again.

        Raises:
            WaitTimeout: It does not.
        """
        eventually(lambda: self.metrics() != {} or not self.server.running, UP, "the server to serve")
        assert self.server.running, f"the server ended:\n{self.server.tail()}"

    def start_client(self, name: str, callable: str, callable_dir: Path, *options: str) -> Process:
        """Start a client whose node has this name; does not wait for it.

        Raises:
            AlreadyExists: There is one of that name; start that one again.
        """
        if name in self.clients:
            raise AlreadyExists(f"There is a client {name} already. Call clients[{name!r}].start() to start it again.")
        command = [sys.executable, "-m", "hedgerow.cli.client", f"--server={self.fleet.text}", f"--name={name}"]
        command += self._security(name, Role.CLIENT)
        command += [f"--callable={callable}", f"--callable-dir={callable_dir}", f"--state-dir={self.client_state(name)}"]
        client = Process(name, [*command, *options], self.folder / f"{name}.log", self._env)
        self.clients[name] = client
        return client.start()

    def client_state(self, name: str) -> Path:
        """State directory of a client."""
        return self.folder / f"client-{name}"

    def start_driver(self, script: Path, *arguments: str) -> Process:
        """Start a driver's script with these arguments."""
        name = f"driver-{len(self.drivers) + 1}"
        env = self._env
        if self.authority is not None:
            files = self.certificates("driver", Role.DRIVER)
            env = {**env, CERTIFICATES_VARIABLE: os.pathsep.join(map(str, (files.ca, files.certificate, files.key)))}
        driver = Process(name, [sys.executable, str(script), *arguments], self.folder / f"{name}.log", env)
        self.drivers.append(driver)
        return driver.start()

    def certificates(self, name: str, role: Role) -> Certificates:
        """The certificate of that name; made when it is first asked for."""
        assert self.authority is not None, "there are certificates only with tls"
        folder = self.authority.folder / name
        if not folder.exists():
            self.authority.issue(role, name)
        return files_of(folder)

    def _security(self, name: str, role: Role) -> list[str]:
        """How a program is told to connect."""
        if self.authority is None:
            return ["--insecure"]
        files = self.certificates(name, role)
        return ["--certificates", str(files.ca), str(files.certificate), str(files.key)]

    def metrics(self) -> dict[str, float]:
        """The server's metrics by name and labels, as ``/metrics`` writes them; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self._own['web'].text}/metrics", timeout=METRICS_S) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return {}
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def wait_for_sessions(self, count: int, limit: Limit = SESSIONS) -> None:
        """Wait until exactly so many clients are connected.

        Raises:
            WaitTimeout: They are not within the limit.
        """
        eventually(lambda: self.metrics().get("hedgerow_sessions") == count, limit, f"{count} clients to be connected")

    def close(self) -> None:
        """End everything."""
        ending: Sequence[Process] = [*self.drivers, *self.clients.values(), *([self._server] if self._server else [])]
        with contextlib.ExitStack() as stack:
            for link in self.links.values():
                stack.callback(link.close)
            for process in reversed(ending):
                stack.callback(process.clear_away)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

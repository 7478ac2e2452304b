"""``start_client``: run a client from a script or notebook. The user's process is the worker; the link is a child process.

Ctrl-C ends both. The link's log lines come back over its stderr and appear in this process's log.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from hedgerow import logs
from hedgerow.certificates import Certificates
from hedgerow.client.app import ClientApp
from hedgerow.client.client import Client
from hedgerow.client.framing import FrameSocket
from hedgerow.client.loader import ClientSource, source
from hedgerow.client.numpy_client import NumPyClient
from hedgerow.client.perform import perform
from hedgerow.client.policy import read_policy
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.records import GRPC_MAX_MESSAGE_LENGTH
from hedgerow.wire.proto import worker_pb2

log = logging.getLogger(__name__)

TRANSPORTS = (None, "grpc-bidi", "grpc-rere", "rest")
LINK_END_S = 3.0
LOG_END_S = 1.0


def start_client(
    *,
    server_address: str,
    client: Client | NumPyClient | None = None,
    client_fn: Callable[..., Client | NumPyClient] | None = None,
    root_certificates: bytes | str | Path | None = None,
    certificates: Sequence[str | Path] | None = None,
    insecure: bool | None = None,
    name: str | None = None,
    state_dir: str | Path | None = None,
    policy: str | Path | None = None,
    load_callable_fn: Callable[[], ClientApp] | None = None,
    grpc_max_message_length: int = GRPC_MAX_MESSAGE_LENGTH,
    transport: str | None = None,
) -> None:
    """Run a client until Ctrl-C, or until the server ends it for good; if that served one job alone, until it is done.

    Args:
        server_address: ``host:port`` of the server's Fleet API.
        client: The client; give this, ``client_fn`` or ``load_callable_fn``.
        client_fn: A function that makes the client: for every task where it takes ``cid`` or ``context``, else once.
        root_certificates: PEM bytes, or the path of a PEM file, of the authority that signed the server's certificate.
            For servers that ask for no certificate.
        certificates: Paths of the CA's certificate, the own certificate and its key, as ``hedgerow provision`` makes them.
            Without it and ``root_certificates``, what the environment variable ``HEDGEROW_CERTIFICATES`` names (joined as in
            ``PATH``); without that, too, the connection is insecure, and a warning says so.
        insecure: False makes the absence of certificates an error.
        name: The node's name. Without it: the certificate's; else the client's attribute ``name``, else its class's name, with a
            number if it is taken.
        state_dir: Where identity and unsent results are kept. Without it: a folder for this server and name in the user's state
            directory.
        policy: A TOML file with the site's policy: which drivers may give tasks, of which kinds, and how many sites must take
            part. Read once, at start. Without it everything is allowed.
        load_callable_fn: A function that gives a :class:`~hedgerow.client.app.ClientApp`; called once.
        grpc_max_message_length: Accepted as in Flower, and not needed: parameters of any size travel.
        transport: The same: "grpc-bidi", "grpc-rere" and "rest" all mean the one transport that there is.

    Raises:
        ConfigError: An argument is wrong.
        HedgerowError: The link ended; the message says why.
    """
    del grpc_max_message_length
    logs.show()
    if transport not in TRANSPORTS:
        raise ConfigError(f"The transport {transport!r} is none of Flower's. Leave it out; there is only one.")
    clients = _source(client, client_fn, load_callable_fn)
    roots, own = _certificates(root_certificates, certificates, insecure)
    command = ["--server", server_address]
    command += (
        ["--certificates", *(str(path.absolute()) for path in (own.ca, own.certificate, own.key))] if own is not None else []
    )
    command += ["--name", name] if name is not None else []
    command += ["--state-dir", str(Path(state_dir).absolute())] if state_dir is not None else []
    if policy is not None:
        # What is wrong with it is raised here, not logged there.
        read_policy(Path(policy)).check_connection(with_certificate=own is not None)
        command += ["--policy", str(Path(policy).absolute())]
    with _LinkProcess(command, roots) as link:
        try:
            link.frames.send(worker_pb2.WorkerReply(ready=worker_pb2.WorkerReady(suggested_name=clients.suggested_name)))
            request = worker_pb2.WorkerRequest()
            while link.frames.receive(request):
                link.frames.send(worker_pb2.WorkerReply(done=perform(clients, request)))
        except BrokenPipeError:
            pass  # the link's exit code says more
        except KeyboardInterrupt:
            log.info("Interrupted")
            link.interrupted = True


def start_numpy_client(
    *,
    server_address: str,
    client: NumPyClient,
    root_certificates: bytes | str | Path | None = None,
    certificates: Sequence[str | Path] | None = None,
    insecure: bool | None = None,
    name: str | None = None,
    state_dir: str | Path | None = None,
    policy: str | Path | None = None,
    grpc_max_message_length: int = GRPC_MAX_MESSAGE_LENGTH,
    transport: str | None = None,
) -> None:
    """Run a ``NumPyClient``; the same as :func:`start_client`."""
    start_client(
        server_address=server_address,
        client=client,
        root_certificates=root_certificates,
        certificates=certificates,
        insecure=insecure,
        name=name,
        state_dir=state_dir,
        policy=policy,
        grpc_max_message_length=grpc_max_message_length,
        transport=transport,
    )


def _source(client: Any, client_fn: Any, load_callable_fn: Any) -> ClientSource:
    if sum(given is not None for given in (client, client_fn, load_callable_fn)) != 1:
        raise ConfigError("Give start_client one of client, client_fn and load_callable_fn.")
    if load_callable_fn is not None:
        return source(load_callable_fn, "load_callable_fn")
    if client_fn is not None:
        if not callable(client_fn):
            raise ConfigError(f"client_fn must be a function; it is a {type(client_fn).__name__}.")
        return source(client_fn, "client_fn", getattr(client_fn, "__name__", "client"))
    if not isinstance(client, Client | NumPyClient):
        raise ConfigError(f"client must be a Client or NumPyClient object; it is a {type(client).__name__}.")
    return source(client, "client", type(client).__name__)


def _certificates(
    root_certificates: bytes | str | Path | None, certificates: Sequence[str | Path] | None, insecure: bool | None
) -> tuple[bytes | None, Certificates | None]:
    """What the link trusts, or its own certificate, which brings that with it; neither for an insecure connection."""
    if root_certificates is not None and certificates is not None:
        raise ConfigError("Give either certificates (CA, certificate, key) or root_certificates; the CA is among the former.")
    if insecure and (root_certificates is not None or certificates is not None):
        raise ConfigError("insecure=True and certificates contradict one another. Give one of them.")
    own = None
    if root_certificates is None and not insecure:
        own = Certificates.from_environment() if certificates is None else Certificates.of(certificates)
    if own is not None:
        own.read()
        return None, own
    if root_certificates is None:
        if insecure is False:
            raise ConfigError(
                "insecure=False needs certificates=(CA, certificate, key), or root_certificates: the PEM file of the authority "
                "of the server's certificate."
            )
        log.warning("Opened insecure gRPC connection (no certificates were passed)")
        return None, None
    if isinstance(root_certificates, bytes):
        return root_certificates, None
    try:
        return Path(root_certificates).read_bytes(), None
    except OSError as error:
        raise ConfigError(f"Cannot read root_certificates {root_certificates}: {error.strerror}.") from None


class _LinkProcess:
    """The link as a child process, from start to end."""

    def __init__(self, arguments: list[str], root_certificates: bytes | None) -> None:
        ours, theirs = socket.socketpair()
        self.frames = FrameSocket(ours)
        self.interrupted = False
        self._last_error = ""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "hedgerow.client.launch", "--fd", str(theirs.fileno()), *arguments]
            + (["--root-certificates-on-stdin"] if root_certificates is not None else []),
            stdin=subprocess.PIPE if root_certificates is not None else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            # Ctrl-C in the terminal reaches this process alone, which then ends the link in order.
            start_new_session=True,
            env=dict(os.environ),
        )
        theirs.close()
        if root_certificates is not None:
            assert self._process.stdin is not None
            self._process.stdin.write(root_certificates)
            self._process.stdin.close()
        assert self._process.stderr is not None
        self._log_thread = threading.Thread(
            target=self._relay, args=(self._process.stderr,), name="hedgerow-link-log", daemon=True
        )
        self._log_thread.start()

    def __enter__(self) -> _LinkProcess:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.frames.close()
        try:
            code = self._process.wait(LINK_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(LINK_END_S)
        self._log_thread.join(LOG_END_S)
        if code != 0 and kind is None and not self.interrupted:
            raise HedgerowError(self._last_error or f"The link process ended with exit code {code}.")

    def _relay(self, lines: IO[bytes]) -> None:
        """Log what the link logs, as if it had been logged here; pass through what is no log line."""
        for raw in lines:
            text = raw.decode(errors="replace").rstrip("\n")
            record = _record(text)
            if record is None:
                sys.stderr.write(text + "\n")
                continue
            if record.levelno >= logging.ERROR:
                self._last_error = record.getMessage()
            if logging.getLogger(record.name).isEnabledFor(record.levelno):
                logging.getLogger(record.name).handle(record)


def _record(text: str) -> logging.LogRecord | None:
    """A line of the JSON log as the record that it was; None if it is none."""
    try:
        line = json.loads(text)
        file, _, number = line.pop("place").rpartition(":")
        level = logging.getLevelNamesMapping()[line.pop("level")]
        line.pop("time")
        message = line.pop("message")
        if "exception" in line:
            message += "\n" + line.pop("exception")
        record = logging.LogRecord(line.pop("logger"), level, file, int(number), message, None, None)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    vars(record).update(line)
    return record

"""The web port: ``/healthz`` for supervisors and ``/metrics`` for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.server.gate import Gate
from hedgerow.store.store import Store
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

HEALTH = Limit("health_s", 5.0)


class _Commits(Collector):
    """What the store's writer did, as Prometheus counts it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The numbers now."""
        totals = self._store.commit_totals()
        what = "Seconds from begin to commit's end"
        yield SummaryMetricFamily("hedgerow_commit_seconds", what, count_value=totals.commits, sum_value=totals.seconds)
        yield CounterMetricFamily("hedgerow_commit_changes", "Changes in these commits", value=totals.changes)
        yield CounterMetricFamily("hedgerow_commit_failures", "Commits that the database refused", value=totals.failures)


class _Calls(Collector):
    """Calls of the gRPC APIs, as Prometheus counts them."""

    def __init__(self, begun: Mapping[tuple[str, str], int]) -> None:
        self._begun = begun

    def collect(self) -> Iterator[Metric]:
        """The numbers now."""
        family = CounterMetricFamily("hedgerow_calls", "Calls that have begun, refused ones included", labels=["api", "method"])
        for (api, method), count in self._begun.items():
            family.add_metric([api, method], count)
        yield family


class WebPort:
    """Serves the state of the server to people and programs on the same machine."""

    def __init__(
        self,
        store: Store,
        sessions: Callable[[], int],
        blob_bytes: Callable[[], tuple[int, int]],
        free_bytes: Callable[[], int],
        gate: Gate,
        calls: Mapping[tuple[str, str], int],
    ) -> None:
        self._store = store
        self._gate = gate
        self._sessions = sessions
        self._blob_bytes = blob_bytes
        self._free_bytes = free_bytes
        self._registry = CollectorRegistry()
        self._nodes = Gauge("hedgerow_nodes", "Nodes by state", ["state"], registry=self._registry)
        self._runs = Gauge("hedgerow_runs", "Runs by state", ["state"], registry=self._registry)
        self._tasks = Gauge("hedgerow_tasks", "Tasks by state", ["state"], registry=self._registry)
        self._open_sessions = Gauge("hedgerow_sessions", "Open sessions of clients", registry=self._registry)
        self._blobs = Gauge("hedgerow_blobs", "Blobs in the store", registry=self._registry)
        self._stored = Gauge("hedgerow_blob_store_bytes", "Bytes of blobs in the store", registry=self._registry)
        self._moved = Gauge("hedgerow_blob_bytes", "Bytes through the blob port", ["direction"], registry=self._registry)
        self._free = Gauge("hedgerow_disk_free_bytes", "Bytes that new blobs may still take", registry=self._registry)
        self._registry.register(_Commits(store))
        self._registry.register(_Calls(calls))
        self._runner: web.AppRunner | None = None

    async def start(self, address: Address) -> int:
        """Listen; returns the TCP port.

        Raises:
            ConfigError: The address cannot be used.
        """
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address.host, address.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"Cannot listen on {address.text} (--web-address): {error.strerror or error}.") from None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        try:
            await wait(self._store.counts(), HEALTH, "the store")
            problem = self._store.commit_totals().problem  # the sweep commits: this passes by itself when the cause does
        except HedgerowError as error:
            problem = str(error)
        if problem:
            return web.json_response({"status": "failing", "reason": problem}, status=503)
        if self._gate.closed:
            return web.json_response({"status": "stopping", "server_id": self._store.server_id}, status=503)
        return web.json_response({"status": "ok", "server_id": self._store.server_id})

    async def _metrics(self, request: web.Request) -> web.Response:
        counts = await wait(self._store.counts(), HEALTH, "the store")
        for gauge, values in ((self._nodes, counts.nodes), (self._runs, counts.runs), (self._tasks, counts.tasks)):
            for state, number in values.items():
                gauge.labels(str(state)).set(number)
        self._open_sessions.set(self._sessions())
        self._blobs.set(counts.blobs)
        self._stored.set(counts.blob_bytes)
        received, sent = self._blob_bytes()
        self._moved.labels("received").set(received)
        self._moved.labels("sent").set(sent)
        self._free.set(self._free_bytes())
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

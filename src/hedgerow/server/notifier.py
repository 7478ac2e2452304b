"""Tells nodes, drivers and the blob folder what a change in the store means for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hedgerow.server.bells import Bells, ended_topic, results_topic
from hedgerow.server.sessions import Sessions
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.changes import Ended, Notice, Release
from hedgerow.wire.proto import fleet_pb2


class Notifier:
    """The one place that turns notices, releases and freed files into messages, bells and deletions."""

    def __init__(self, sessions: Sessions, bells: Bells, folder: BlobFolder) -> None:
        self._sessions = sessions
        self._bells = bells
        self._folder = folder

    def cancelled(self, run_ids: Iterable[str], notify: Iterable[Notice], reason: str) -> None:
        """Tasks ended without their nodes: tell these, and the drivers that wait for results."""
        for node_id, epoch, task_id in notify:
            cancel = fleet_pb2.Cancel(task_id=task_id, reason=reason)
            self._sessions.deliver(node_id, epoch, fleet_pb2.SessionDown(cancel=cancel))
        for run_id in run_ids:
            self._bells.ring(results_topic(run_id))

    def released(self, release: Iterable[Release]) -> None:
        """Results are safe with the driver: their nodes may drop them."""
        for node_id, epoch, task_ids in release:
            session = self._sessions.at(node_id, epoch)
            if session is not None:
                session.release(task_ids)

    async def run_ended(self, run_id: str, ended: Ended) -> None:
        """A run is over: everybody who works for it or waits for it is told, and its files go."""
        self.cancelled([run_id], ended.notify, "the run has ended")
        self._bells.ring(ended_topic(run_id))
        self.released(ended.release)
        await self.unlink(ended.files)

    async def unlink(self, files: list[str]) -> None:
        """Delete files whose rows are gone."""
        if files:
            await asyncio.to_thread(self._delete, files)

    def _delete(self, files: list[str]) -> None:
        for name in files:
            self._folder.delete(name)

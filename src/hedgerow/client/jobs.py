"""The tasks that a client has in hand: from the server's push, over parameters and worker, to the entry in the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hedgerow.client.connection import Connection
from hedgerow.client.delivery import Delivery
from hedgerow.client.outbox import About, Outbox
from hedgerow.client.parameter_cache import ParameterCache
from hedgerow.client.perform import LIGHT_KINDS
from hedgerow.client.policy import Policy
from hedgerow.client.state_dir import StateDir
from hedgerow.client.task_audit import TaskAudit
from hedgerow.client.worker_pool import Place, WorkerPool
from hedgerow.client.worker_process import WorkerDied
from hedgerow.errors import CallerError, CorruptData, HedgerowError, InvalidArgument
from hedgerow.records import Blob, Origin, Outcome, Reply, Task
from hedgerow.waits import Backoff, Limit, pause, wait
from hedgerow.wire.convert import check_id, outcome_from_proto, reply_to_proto, task_from_proto, task_to_proto
from hedgerow.wire.proto import records_pb2, worker_pb2

log = logging.getLogger(__name__)

WORKER_RETRIES = 2
"""So often a task whose worker died is tried again; nothing else counts."""
MAX_DRIVER_CHARS = 200
"""No name in a certificate is so long; what is beyond is not kept, or parsed."""
CANCEL_GRACE_S = 5.0
"""A cancelled task may end by itself for so long before its worker is killed; loading the callable again may cost more."""
JOBS_END = Limit("jobs_end_s", 1.5)


@dataclass
class Job:
    """A task in hand."""

    task: Task
    about: About
    cancelled: bool = False
    running: asyncio.Task[None] | None = None
    attempt: int = 0
    leftovers: list[Path] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the log calls it."""
        return self.about.label


@dataclass(frozen=True)
class Rules:
    """What the site has decided about tasks.

    Attributes:
        policy: Which it takes.
        worker_retries: How often one whose worker died is tried again.
    """

    policy: Policy = field(default_factory=Policy)
    worker_retries: int = WORKER_RETRIES


@dataclass(frozen=True)
class Bench:
    """What a job needs around it."""

    node_name: str
    state: StateDir
    cache: ParameterCache
    outbox: Outbox
    pool: WorkerPool
    connection: Connection
    delivery: Delivery
    audit: TaskAudit
    rules: Rules = field(default_factory=Rules)


class Jobs:
    """All tasks in hand."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._jobs: dict[str, Job] = {}
        self._closing = False

    @property
    def in_hand(self) -> list[str]:
        """Ids of the tasks that have come and have no result yet."""
        return [task_id for task_id, job in self._jobs.items() if not job.cancelled]

    def assign(self, message: records_pb2.Task, origin: Origin) -> None:
        """Take a task; one that is known is not done twice, and one that the site's policy does not allow is answered at once."""
        try:
            check_id("task_id", message.task_id)
            check_id("run_id", message.run_id)
        except InvalidArgument as error:  # nothing may be kept under such a name
            log.error("The server sent a task that cannot be: %s", error)
            return
        if message.task_id in self._jobs:
            return
        if message.task_id in self._bench.outbox:
            log.info("The server asks again for task %s; its result is sent again", message.task_id)
            self._bench.delivery.send_again(message.task_id)
            return
        kind = message.instruction.kind[:64]
        origin = replace(origin, driver=origin.driver[:MAX_DRIVER_CHARS])
        about = About(message.task_id, message.run_id, kind, message.round, origin.driver)
        try:
            task = task_from_proto(message)
        except InvalidArgument as error:
            log.error("The server sent a task that cannot be read: %s", error)
            self._bench.audit.received(about, None, origin.sites, "unreadable", str(error))
            self._refuse(about, _failure(Outcome.INVALID_RESULT, str(error)))
            return
        refusal = self._bench.rules.policy.refusal(kind, origin)
        outcome = "refused" if refusal else "accepted"
        self._bench.audit.received(about, task.instruction.parameters, origin.sites, outcome, refusal)
        if refusal:
            log.warning("Refused the %s: %s", about.label, refusal, extra=_extra("task_refused", task))
            self._refuse(about, _failure(Outcome.REFUSED, refusal))
            return
        job = self._jobs[task.task_id] = Job(task, about)
        log.info("Received the %s", about.label, extra=_extra("task_received", task))
        job.running = asyncio.get_running_loop().create_task(self._run(job))

    def _refuse(self, about: About, failure: records_pb2.Reply) -> None:
        """Answer a task that is not taken."""
        try:
            self._bench.outbox.put(about, failure, None, None)
        except OSError as error:
            log.error(
                "The refusal of the %s cannot be kept: %s. The server sends it again in the next session", about.label, error
            )
        else:
            self._bench.delivery.send(about.task_id)

    def cancel(self, task_id: str, reason: str) -> None:
        """A task need not be finished. One that runs in a worker that cannot be replaced goes on, and its result is dropped."""
        if task_id in self._bench.outbox:
            self._bench.delivery.drop(task_id)
        job = self._jobs.get(task_id)
        if job is not None and not job.cancelled:
            log.info("Cancelled the %s: %s", job.label, reason, extra=_extra("task_cancelled", job.task))
            job.cancelled = True
            if job.attempt == 0:
                self._abandon(job)
            elif self._bench.pool.replaces_workers:
                asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._abandon, job)

    def _abandon(self, job: Job) -> None:
        if job.running is not None:
            job.running.cancel()

    async def close(self) -> None:
        """Abandon everything; what is in hand was handed back."""
        self._closing = True
        running = [job.running for job in self._jobs.values() if job.running is not None]
        for task in running:
            task.cancel()
        if running:
            await wait(asyncio.wait(running), JOBS_END, "the tasks in hand to be abandoned")

    async def _run(self, job: Job) -> None:
        try:
            with self._blob_file(job) as parameters:
                reply = await self._fetched(job, parameters)
                if reply is None:
                    await self._in_turn(job, parameters)
                else:
                    await self._finish(job, reply, None, None)
        except asyncio.CancelledError:
            self._bench.audit.ended(job.about, "cancelled" if job.cancelled else "abandoned")
            raise
        except Exception:
            log.exception("The %s failed in the client itself", job.label)
            await self._finish(job, _failure(Outcome.INVALID_RESULT, "The client failed; its log says why."), None, None)
        finally:
            del self._jobs[job.task.task_id]
            for path in job.leftovers:
                path.unlink(missing_ok=True)
            if not self._jobs and not self._closing:
                log.info("Idle, waiting for work", extra={"action": "idle"})

    @contextlib.contextmanager
    def _blob_file(self, job: Job) -> Iterator[Path | None]:
        """The file of the task's parameters; None where there are none, or where they are small and came in the message."""
        match job.task.instruction.parameters:
            case Blob() as blob:
                with self._bench.cache.pinned(blob) as path:
                    yield path
            case _:
                yield None

    async def _fetched(self, job: Job, path: Path | None) -> records_pb2.Reply | None:
        """Have the task's blob on disk; the failure where that is not possible."""
        blob = job.task.instruction.parameters
        backoff = Backoff()
        while path is not None and isinstance(blob, Blob) and not self._bench.cache.has(blob):
            await self._bench.connection.session_after(None)
            try:
                await self._bench.connection.download(blob, path, job.task.run_id, job.task.task_id)
                self._bench.audit.fetched(job.about, blob.digest, "ok")
            except (CallerError, CorruptData) as error:
                self._bench.audit.fetched(job.about, blob.digest, type(error).__name__)
                log.error("The parameters of the %s cannot be read: %s", job.label, error)
                return _failure(Outcome.INVALID_RESULT, f"The task's parameters cannot be read: {error}")
            except HedgerowError as error:
                seconds = backoff.next()
                log.warning("The parameters of the %s could not be fetched (%s); again in %.1f s", job.label, error, seconds)
                await pause(seconds, "the server to be able to give the parameters")
        return None

    async def _in_turn(self, job: Job, parameters: Path | None) -> None:
        task = job.task
        async with self._bench.pool.place(task.run_id, light=task.instruction.kind in LIGHT_KINDS) as place:
            started = time.monotonic()
            log.info("Started the %s", job.label, extra=_extra("task_started", task))
            try:
                reply, files = await self._carried_out(job, place, parameters)
            except asyncio.CancelledError:
                await self._bench.pool.discard(place)
                raise
        seconds = time.monotonic() - started
        outcome = _word(reply)
        log.info("Ended the %s: %s after %.2f s", job.label, outcome, seconds, extra=_extra("task_ended", task, outcome, seconds))
        await self._finish(job, reply, *files)

    async def _carried_out(
        self, job: Job, place: Place, parameters: Path | None
    ) -> tuple[records_pb2.Reply, tuple[Path | None, Path | None]]:
        """The reply, and the files of the result's parameters and of the run's new state. A worker that dies is replaced."""
        state, task = self._bench.state, job.task
        message = task_to_proto(task)
        if parameters is not None:
            message.instruction.ClearField("parameters")  # they are in the file
        while True:
            job.attempt += 1
            result = state.work_path(task.task_id, f"{job.attempt}.result")
            new_state = state.work_path(task.task_id, f"{job.attempt}.state")
            job.leftovers += [result, new_state]
            request = worker_pb2.WorkerRequest(
                task=message,
                parameters_path=str(parameters or ""),
                result_path=str(result),
                node_name=self._bench.node_name,
                state_path=str(state.run_state_path(task.run_id)),
                new_state_path=str(new_state),
                inline_max_bytes=self._bench.connection.inline_max_bytes,
            )
            try:
                worker = await self._bench.pool.worker(place)
                done = await worker.carry_out(request)
            except WorkerDied as error:
                if self._closing or not self._bench.pool.replaces_workers:
                    raise asyncio.CancelledError from error  # the client is stopping
                deaths = state.count_death(task.task_id)
                most = self._bench.rules.worker_retries + 1
                log.warning("%s Task: %s, death %d of %d", error, job.label, deaths, most, extra=_extra("worker_died", task))
                if deaths < most:
                    continue
                text = f"The worker process died {deaths} time{'s' * (deaths > 1)} under this task; the last time: {error}"
                return _failure(Outcome.WORKER_DIED, text, deaths), (None, None)
            reply = done.reply
            reply.worker_deaths = state.deaths(task.task_id)
            has_state = reply.outcome == records_pb2.OUTCOME_OK and new_state.exists()
            return reply, (result if done.has_parameters else None, new_state if has_state else None)

    async def _finish(self, job: Job, reply: records_pb2.Reply, parameters: Path | None, new_state: Path | None) -> None:
        """Keep the result and send it; a result that nobody wants any longer is dropped."""
        backoff = Backoff(first_s=1.0, cap_s=30.0)
        while not job.cancelled:
            try:
                self._bench.outbox.put(job.about, reply, parameters, new_state)
                break
            except OSError as error:
                seconds = backoff.next()
                log.error("The result of the %s cannot be kept: %s. Trying again in %.0f s", job.label, error, seconds)
                await pause(seconds, "space on the disk")
        self._bench.state.forget_deaths(job.task.task_id)
        if job.cancelled:
            self._bench.audit.ended(job.about, "cancelled")
        else:
            self._bench.audit.ended(job.about, _word(reply), "" if reply.outcome == records_pb2.OUTCOME_OK else reply.message)
            self._bench.delivery.send(job.task.task_id)


def _word(reply: records_pb2.Reply) -> str:
    return str(outcome_from_proto(reply.outcome))


def _failure(outcome: Outcome, message: str, worker_deaths: int = 0) -> records_pb2.Reply:
    return reply_to_proto(Reply(outcome, message, worker_deaths=worker_deaths))


def _extra(action: str, task: Task, outcome: str = "", seconds: float | None = None) -> dict[str, object]:
    extra: dict[str, object] = {
        "action": action,
        "kind": task.instruction.kind,
        "round": task.round,
        "run_id": task.run_id,
        "task_id": task.task_id,
    }
    if seconds is not None:
        extra |= {"outcome": outcome, "seconds": round(seconds, 3)}
    return extra

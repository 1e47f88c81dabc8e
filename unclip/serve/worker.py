"""The one thread that owns a model: it takes requests from a bounded queue and draws those of a kind together."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from unclip.errors import Cancelled, RequestError
from unclip.serve.envelope import ApiError, overloaded
from unclip.serve.request import GenerationRequest

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """What a request gets: unmarked pictures at a size the model makes, a seed each, and the seconds they took."""

    images: list[Image.Image]
    seeds: list[int]
    seconds: float


@dataclass(eq=False)
class Job:
    """A request in the queue. Setting `cancelled` frees its place, or stops its work after the step being made."""

    request: GenerationRequest
    size: int
    result: Future[Pictures] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def seeds(self) -> list[int]:
        """One per picture; others each time, if the client chose none."""
        first = secrets.randbelow(2**31) if self.request.seed is None else self.request.seed
        return [first + i for i in range(self.request.n)]

    @property
    def kind(self) -> object:
        """Jobs of one kind can be drawn together."""
        return self.size, self.request.options


class Worker:
    """Draws what is in the queue, in order.

    Args:
        capacity: pictures that may wait; a request that finds no room is refused.
        batch: pictures drawn together at most.
    """

    def __init__(self, pipeline: Pipeline, *, capacity: int = 64, batch: int = 8) -> None:
        self.pipeline, self.capacity, self.batch = pipeline, capacity, batch
        self.drawn = self.cancelled = self.batches = 0
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._pace = 1.0  # seconds per picture, as of late
        self._thread = threading.Thread(target=self._work, name="unclip-worker", daemon=True)

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Draws what is still wanted, then ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it draws."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        with self._changed:
            return self._count()

    def submit(self, request: GenerationRequest) -> Job:
        """Puts a request into the queue.

        Raises:
            ApiError: there is no room (429), or the server is going down (503).
        """
        sizes = self.pipeline.sizes
        job = Job(request, min((side for side in sizes if side >= request.size), default=sizes[-1]))
        with self._changed:
            if self._stopping:
                raise ApiError("The server is shutting down.", status=503, kind="server_error")
            waiting = self._count()
            # A request that is larger than the queue may wait alone: it would never find room otherwise.
            if waiting and waiting + request.n > self.capacity:
                raise overloaded(waiting * self._pace)
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """The client is gone: forget the request."""
        with self._changed:
            job.cancelled.set()
            self.cancelled += 1
            if job in self._waiting:
                self._waiting.remove(job)
                job.result.cancel()

    def _count(self) -> int:
        return sum(job.request.n for job in self._waiting)

    def _work(self) -> None:
        while jobs := self._next():
            started = time.perf_counter()
            try:
                self._draw(jobs)
            except Exception as error:  # whatever it is, the next request must find a living worker
                if not isinstance(error, Cancelled | RequestError):
                    log.exception("a batch of %d requests failed", len(jobs))
                for job in jobs:
                    job.result.set_exception(error)
            else:
                pictures = sum(job.request.n for job in jobs)
                self._pace += 0.3 * ((time.perf_counter() - started) / pictures - self._pace)

    def _next(self) -> list[Job]:
        """The oldest request, and those like it that fit into the same batch; none at the end."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return []
                self._changed.wait()
            jobs = [self._waiting.popleft()]
            room = self.batch - jobs[0].request.n
            for job in list(self._waiting):
                if job.kind == jobs[0].kind and job.request.n <= room:
                    self._waiting.remove(job)
                    jobs.append(job)
                    room -= job.request.n
            for job in jobs:
                job.result.set_running_or_notify_cancel()  # from here on, only the worker decides how it ends
            return jobs

    def _draw(self, jobs: list[Job]) -> None:
        seeds = [job.seeds() for job in jobs]
        options: dict[str, dict[str, Any]] = {}
        for role, name, value in jobs[0].request.options:
            options.setdefault(role, {})[name] = value

        def stop_if_nobody_waits(*step: object) -> None:
            if all(job.cancelled.is_set() for job in jobs):
                raise Cancelled("all clients are gone")

        made = self.pipeline.generate(
            [job.request.prompt for job in jobs for _ in range(job.request.n)],
            seeds=[seed for one in seeds for seed in one],
            size=jobs[0].size, options=options, watermark=False, on_step=stop_if_nobody_waits,
        )  # fmt: skip
        self.batches += 1
        self.drawn += len(made.images)
        images = iter(made.images)
        for job, one in zip(jobs, seeds, strict=True):
            job.result.set_result(Pictures([next(images) for _ in one], one, sum(made.seconds.values())))

"""The threads that own a model each: they take requests from a bounded queue and draw those of a kind together."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from PIL import Image

from unclip.errors import Cancelled, RequestError
from unclip.serve.envelope import ApiError, overloaded
from unclip.serve.pictures import preview
from unclip.serve.request import (
    DiffRequest,
    EditRequest,
    GenerationRequest,
    InterpolationRequest,
    OutpaintRequest,
    VariationRequest,
)

if TYPE_CHECKING:
    from unclip.diffusion.samplers import Step
    from unclip.pipeline import Generation, Pipeline

log = logging.getLogger(__name__)
PROMPTS = logging.getLogger("unclip.prompts")
PROMPTS.setLevel(logging.CRITICAL)  # whatever else a program logs: prompts only where somebody asks for these


@dataclass(frozen=True)
class Pictures:
    """What a request gets: unmarked pictures at a size the model makes, a seed each, and the seconds they took."""

    images: list[Image.Image]
    seeds: list[int]
    seconds: float


OnPreview = Callable[[int, list[Image.Image]], None]  # a number from 0, and the pictures as far as they are


@dataclass(eq=False)
class Job:
    """A request in the queue. Setting `cancelled` frees its place, or stops its work after the step being made.

    Attributes:
        size: side in pixels at which the model draws it.
        on_preview: called by the worker with the pictures under way that the request asks for.
    """

    request: GenerationRequest
    size: int
    on_preview: OnPreview | None = None
    result: Future[Pictures] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def seeds(self) -> list[int]:
        """One per picture; others each time, if the client chose none."""
        first = secrets.randbelow(2**31) if self.request.seed is None else self.request.seed
        return [first + i for i in range(self.request.n)]

    @property
    def kind(self) -> object:
        """Jobs of one kind can be drawn together; an edit is of its own, for it has a mask of its own, and so on."""
        alone = None if type(self.request) in (GenerationRequest, VariationRequest) else id(self)
        return type(self.request), self.size, self.request.options, self.request.preset, alone


class Worker:
    """Draws what is in the queue, in order.

    Args:
        pipelines: the same model on one device or several; each has a thread.
        capacity: pictures that may wait; a request that finds no room is refused.
        batch: pictures drawn together at most.
    """

    def __init__(self, *pipelines: Pipeline, capacity: int = 64, batch: int = 8) -> None:
        self.pipelines, self.capacity, self.batch = pipelines, capacity, batch
        self.drawn = self.cancelled = self.batches = 0
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._pace = 1.0  # seconds per picture of one thread, as of late
        self._threads = [
            threading.Thread(target=self._work, args=(pipeline,), name=f"unclip-worker-{i}", daemon=True)
            for i, pipeline in enumerate(pipelines)
        ]

    def start(self) -> None:
        """Begins to draw."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Draws what is still wanted, then ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether it draws."""
        return all(thread.is_alive() for thread in self._threads) and not self._stopping

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        with self._changed:
            return self._count()

    def submit(self, request: GenerationRequest, on_preview: OnPreview | None = None) -> Job:
        """Puts a request into the queue.

        Raises:
            ApiError: there is no room (429), or the server is going down (503).
        """
        sizes = self.pipelines[0].sizes
        job = Job(request, min((side for side in sizes if side >= request.size), default=sizes[-1]), on_preview)
        with self._changed:
            if self._stopping:
                raise ApiError("The server is shutting down.", status=503, kind="server_error")
            waiting = self._count()
            # A request that is larger than the queue may wait alone: it would never find room otherwise.
            if waiting and waiting + request.n > self.capacity:
                raise overloaded(waiting * self._pace / len(self.pipelines))
            self._waiting.append(job)
            self._changed.notify_all()
        PROMPTS.info("%d pictures of %r", request.n, request.prompt)
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

    def _work(self, pipeline: Pipeline) -> None:
        while jobs := self._next():
            started = time.perf_counter()
            try:
                self._draw(pipeline, jobs)
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

    def _draw(self, pipeline: Pipeline, jobs: list[Job]) -> None:
        made = _make(pipeline, jobs, [seed for job in jobs for seed in job.seeds()])
        with self._changed:
            self.batches += 1
            self.drawn += len(made.images)
        seconds = sum(made.seconds.values())
        for job, rows in zip(jobs, _rows(jobs), strict=True):
            job.result.set_result(Pictures(made.images[rows], made.seeds[rows], seconds))


def _make(pipeline: Pipeline, jobs: list[Job], seeds: list[int]) -> Generation:
    """The pictures of jobs of one kind, job by job."""
    options: dict[str, dict[str, Any]] = {}
    for role, name, value in jobs[0].request.options:
        options.setdefault(role, {})[name] = value
    # Unmarked: the server still changes their sizes, and marks what it sends (`pictures.encode`).
    how: dict[str, Any] = {"size": jobs[0].size, "options": options, "on_step": _watch(jobs), "watermark": False}
    each = [job.request for job in jobs for _ in range(job.request.n)]
    match first := jobs[0].request:
        case EditRequest():
            how["strength"] = first.strength
            return pipeline.edit(first.image, first.prompt, first.mask, first.n, seed=seeds, **how)
        case OutpaintRequest():
            del how["size"]
            return pipeline.outpaint(first.image, first.prompt, first.to, first.n, seed=seeds, **how)
        case InterpolationRequest():
            return pipeline.interpolate(first.keys, first.n, seed=seeds[0], **how)
        case DiffRequest():
            thetas = [first.theta * (i + 1) / first.n for i in range(first.n)]
            return pipeline.diff(first.image, first.before, first.prompt, thetas, seed=seeds[0], **how)
        case VariationRequest():
            pictures = [one.image for one in each if isinstance(one, VariationRequest)]
            return pipeline.vary(pictures, fresh_noise=True, seed=seeds, **how)
    prompts = [one.prompt for one in each]
    return pipeline.generate(prompts, seeds=seeds, preset=first.preset, **how)


def _rows(jobs: Sequence[Job]) -> list[slice]:
    """Where each job's pictures are among all of them."""
    ends = list(accumulate(job.request.n for job in jobs))
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def _watch(jobs: Sequence[Job]) -> Callable[[str, int, int, Step], None]:
    """After every step: stops if nobody waits any more, and shows pictures under way to those who asked for them."""
    rows = _rows(jobs)
    shown = [0] * len(jobs)

    def on_step(role: str, number: int, total: int, step: Step) -> None:
        if all(job.cancelled.is_set() for job in jobs):
            raise Cancelled("all clients are gone")
        for i, job in enumerate(jobs):
            wanted = job.request.partial_images
            # Evenly over the decoder's steps, where the picture forms; the last one shows what it has made.
            if role == "decoder" and job.on_preview and wanted and number * wanted >= (shown[i] + 1) * total:
                job.on_preview(shown[i], [preview(x0, job.request.size) for x0 in step.x0[rows[i]]])
                shown[i] += 1

    return on_step

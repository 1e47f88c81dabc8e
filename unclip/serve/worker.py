"""The threads that own a pipeline each: they take batches of requests from one queue and draw them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from PIL import Image

from unclip.errors import Cancelled, RequestError
from unclip.serve.drawing import OnStep, draw
from unclip.serve.envelope import shutting_down
from unclip.serve.pictures import preview
from unclip.serve.progress import BatchTimer, OnProgress, StageTimings
from unclip.serve.queueing import DrawnImages, FairQueue, OnPreview, QueuedRequest, Share
from unclip.serve.requests import GenerationRequest

if TYPE_CHECKING:
    from unclip.diffusion.samplers import Step
    from unclip.pipeline import Pipeline

log = logging.getLogger(__name__)


class Worker:
    """Draws what is in the queue.

    Args:
        pipelines: the same model on one device or several; each has a thread.
        capacity: images that may wait; a request that finds no room is refused.
        batch: images drawn together at most.
        on_prompt: called with the number of images and the prompt of each request; without it prompts leave
            no trace.
    """

    def __init__(
        self,
        *pipelines: Pipeline,
        capacity: int = 64,
        batch: int = 8,
        on_prompt: Callable[[int, str], None] | None = None,
    ) -> None:
        self.pipelines, self.batch = pipelines, batch
        self.drawn = self.cancelled = self.batches = 0
        self.on_batch: Callable[[int, Mapping[str, float], Sequence[float]], None] | None = None
        self._on_prompt = on_prompt
        self._queue = FairQueue(capacity)
        self._changed = threading.Condition()
        self._stopping = False
        self._timings = StageTimings()
        self._pace = 1.0  # seconds per image of one thread, as a running mean
        self._threads = [
            threading.Thread(target=self._work, args=(pipeline,), name=f"unclip-worker-{i}", daemon=True)
            for i, pipeline in enumerate(pipelines)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Refuses new requests, draws those in the queue, then ends the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images that the model makes."""
        return self.pipelines[0].sizes

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return all(thread.is_alive() for thread in self._threads) and not self._stopping

    @property
    def waiting(self) -> int:
        """Number of images in the queue."""
        with self._changed:
            return self._queue.images

    def submit(
        self,
        request: GenerationRequest,
        on_preview: OnPreview | None = None,
        on_progress: OnProgress | None = None,
        *,
        client: str = "",
    ) -> QueuedRequest:
        """Puts a request into the queue.

        Args:
            client: whose share of the server it takes.

        Raises:
            ApiError: no room (429), or the server shuts down (503).
        """
        size = min((side for side in self.sizes if side >= request.size), default=self.sizes[-1])
        queued = QueuedRequest(request, size, client, on_preview, on_progress)
        with self._changed:
            if self._stopping:
                raise shutting_down()
            self._queue.add(queued, self._pace / len(self.pipelines))
            self._changed.notify_all()
        if self._on_prompt:
            self._on_prompt(request.n, request.prompt)
        return queued

    def cancel(self, queued: QueuedRequest) -> None:
        """Drops a request: it leaves the queue, or its work stops after the current step."""
        with self._changed:
            queued.cancelled.set()
            self.cancelled += 1
            if self._queue.remove(queued) and not queued.result.cancel():
                queued.result.set_exception(Cancelled("the client is gone"))  # a part of it was drawn already

    def _work(self, pipeline: Pipeline) -> None:
        while shares := self._next():
            started = time.perf_counter()
            try:
                self._draw(pipeline, shares, started)
            except Exception as error:  # whatever it is, the next request must find a living worker
                if not isinstance(error, Cancelled | RequestError):
                    log.exception("a batch of %d requests failed", len(shares))
                for share in shares:
                    share.queued.result.set_exception(error)
            else:
                images = sum(len(share.seeds) for share in shares)
                self._pace += 0.3 * ((time.perf_counter() - started) / images - self._pace)

    def _next(self) -> list[Share]:
        """Waits for the next batch; empty at the end."""
        with self._changed:
            while not self._queue:
                if self._stopping:
                    return []
                self._changed.wait()
            shares = self._queue.take(self.batch)
            for share in shares:
                if not share.queued.images:
                    share.queued.result.set_running_or_notify_cancel()  # from here on, only a worker ends it
            return shares

    def _draw(self, pipeline: Pipeline, shares: Sequence[Share], started: float) -> None:
        requests = [share.queued.request for share in shares for _ in share.seeds]
        seeds = [seed for share in shares for seed in share.seeds]
        timer = None
        if any(share.queued.on_progress for share in shares):
            timer = self._timings.begin((type(requests[0]), shares[0].queued.size), len(seeds))
        made = draw(pipeline, requests, seeds, shares[0].queued.size, _watch(shares, timer))
        if timer:
            timer.end()
        seconds = sum(made.seconds.values())
        if self.on_batch:
            new = [started - share.queued.submitted for share in shares if not share.queued.images]
            self.on_batch(len(seeds), made.seconds, new)
        with self._changed:
            self.batches += 1
            self.drawn += len(made.images)
            for share, rows in zip(shares, _rows(shares), strict=True):
                queued = share.queued
                queued.images += made.images[rows]
                queued.seconds += seconds
                if queued.remaining and not queued.cancelled.is_set():
                    self._queue.put_back(queued)
                    self._changed.notify_all()
                elif queued.remaining:
                    queued.result.set_exception(Cancelled("the client is gone"))
                else:
                    queued.result.set_result(DrawnImages(queued.images, queued.seeds, queued.seconds))


def _rows(shares: Sequence[Share]) -> list[slice]:
    """Where each share's images are in the batch."""
    ends = accumulate((len(share.seeds) for share in shares), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def _watch(shares: Sequence[Share], timer: BatchTimer | None) -> OnStep:
    """Returns a callback that stops the batch when all its clients are gone, and shows progress and
    previews.
    """
    rows = _rows(shares)

    def on_step(role: str, number: int, total: int, step: Step) -> None:
        if all(share.queued.cancelled.is_set() for share in shares):
            raise Cancelled("all clients are gone")
        if timer:
            now = timer.step(role, number, total, len(step.x0))
            for share in shares:
                if share.queued.on_progress:
                    share.queued.on_progress(share.progress(now))
        if role != "decoder":
            return
        for share, own in zip(shares, rows, strict=True):
            queued = share.queued
            wanted = queued.request.partial_images
            # Evenly over the decoder's steps, where the image forms; the last preview shows its result.
            if queued.on_preview and wanted and number * wanted >= (queued.previews + 1) * total:
                done: list[Image.Image] = list(queued.images)
                queued.on_preview(
                    queued.previews, done + [preview(x0, queued.request.size) for x0 in step.x0[own]]
                )
                queued.previews += 1

    return on_step

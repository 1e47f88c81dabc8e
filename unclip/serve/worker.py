"""The threads that own a device each: they take batches of requests from one queue and draw them."""

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
from unclip.serve.models import ServedModel
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
        models: models on the same devices, with a thread per device; the first model is the default. Or the
            pipelines of one model, one for each device.
        capacity: images that may wait; a request that finds no room is refused.
        batch: images drawn together at most.
        on_prompt: called with the number of images and the prompt of each request; without it prompts leave
            no trace.
        unload_after: seconds without a request after which a model's memory is freed; None to keep it.
    """

    def __init__(
        self,
        *models: ServedModel | Pipeline,
        capacity: int = 64,
        batch: int = 8,
        on_prompt: Callable[[int, str], None] | None = None,
        unload_after: float | None = None,
    ) -> None:
        pipelines = [one for one in models if not isinstance(one, ServedModel)]
        served = [ServedModel(pipelines)] if pipelines else [m for m in models if isinstance(m, ServedModel)]
        self.models, self.default = {model.name: model for model in served}, served[0]
        self.batch, self.unload_after = batch, unload_after
        self.drawn = self.cancelled = self.batches = 0
        self.on_batch: Callable[[int, Mapping[str, float], Sequence[float]], None] | None = None
        self._on_prompt = on_prompt
        self._queue = FairQueue(capacity)
        self._changed = threading.Condition()
        self._stopping = False
        self._timings = StageTimings()
        self._pace = 1.0  # seconds per image of one thread, as a running mean
        self._threads = [
            threading.Thread(target=self._work, args=(device,), name=f"unclip-worker-{device}", daemon=True)
            for device in range(self.default.devices)
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
        """Sides in pixels of the images that the default model makes."""
        return self.default.sizes

    def model(self, name: str) -> ServedModel:
        """Returns the model of a name; the default for names of other services, like dall-e-2."""
        return self.models.get(name, self.default)

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
            ApiError: a shape that the model does not make (400), no room (429), or the server stops (503).
        """
        model = self.model(request.model)
        size = request.drawn(model.grid)
        queued = QueuedRequest(request, model, size.plain, client, on_preview, on_progress)
        with self._changed:
            if self._stopping:
                raise shutting_down()
            self._queue.add(queued, self._pace / len(self._threads))
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

    def _work(self, device: int) -> None:
        while shares := self._next(device):
            started = time.perf_counter()
            try:
                self._draw(device, shares, started)
            except Exception as error:  # whatever it is, the next request must find a living worker
                if not isinstance(error, Cancelled | RequestError):
                    log.exception("a batch of %d requests failed", len(shares))
                for share in shares:
                    share.queued.result.set_exception(error)
            else:
                images = sum(len(share.seeds) for share in shares)
                self._pace += 0.3 * ((time.perf_counter() - started) / images - self._pace)

    def _next(self, device: int) -> list[Share]:
        """Waits for the next batch, and unloads idle models meanwhile; empty at the end."""
        while True:
            patience = self._drop_idle(device)  # takes time, and so comes without the lock
            with self._changed:
                if self._queue:
                    shares = self._queue.take(self.batch)
                    for share in shares:
                        if not share.queued.done:  # from here on, only a worker ends it
                            share.queued.result.set_running_or_notify_cancel()
                    return shares
                if self._stopping:
                    return []
                self._changed.wait(patience)

    def _drop_idle(self, device: int) -> float | None:
        """Returns the seconds until the next model will be idle; None if there is none to wait for."""
        if self.unload_after is None:
            return None
        left = [model.drop_idle(device, self.unload_after) for model in self.models.values()]
        return min((seconds for seconds in left if seconds is not None), default=None)

    def _draw(self, device: int, shares: Sequence[Share], started: float) -> None:
        requests = [share.queued.request for share in shares for _ in share.seeds]
        seeds = [seed for share in shares for seed in share.seeds]
        first, timer = shares[0].queued, None
        with first.model.use(device) as pipeline:
            if any(share.queued.on_progress for share in shares):
                timer = self._timings.begin((first.model.name, type(requests[0]), first.size), len(seeds))
            made = draw(pipeline, requests, seeds, first.size, _watch(shares, timer, pipeline))
        if timer:
            timer.end()
        seconds = sum(made.seconds.values())
        if self.on_batch:
            new = [started - share.queued.submitted for share in shares if not share.queued.done]
            self.on_batch(len(seeds), made.seconds, new)
        with self._changed:
            self.batches += 1
            self.drawn += len(made.images)
            for share, rows in zip(shares, _rows(shares), strict=True):
                queued = share.queued
                queued.images += made.images[rows]
                queued.embeds += made.embeds[rows]
                queued.done += len(share.seeds)
                queued.seconds += seconds
                if queued.remaining and not queued.cancelled.is_set():
                    self._queue.put_back(queued)
                    self._changed.notify_all()
                elif queued.remaining:
                    queued.result.set_exception(Cancelled("the client is gone"))
                else:
                    drawn = DrawnImages(queued.images, queued.seeds, queued.seconds, queued.embeds)
                    queued.result.set_result(drawn)


def _rows(shares: Sequence[Share]) -> list[slice]:
    """Where each share's images are in the batch."""
    ends = accumulate((len(share.seeds) for share in shares), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def _watch(shares: Sequence[Share], timer: BatchTimer | None, pipeline: Pipeline) -> OnStep:
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
                shown = pipeline.decoder.render(step.x0[own])
                forming: list[Image.Image] = [preview(x0, queued.request.pixels) for x0 in shown]
                queued.on_preview(queued.previews, [*queued.images, *forming])
                queued.previews += 1

    return on_step

"""The queue of requests: bounded, and fair between clients."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from unclip.serve.drawing import BATCHED, DIVISIBLE
from unclip.serve.envelope import rate_limited
from unclip.serve.models import ServedModel
from unclip.serve.progress import OnProgress, Progress
from unclip.serve.requests import GenerationRequest

OnPreview = Callable[[int, list[Image.Image]], None]  # number from 0, and the images as far as they are


@dataclass(frozen=True)
class DrawnImages:
    """The result of a request: unmarked images at a size the model makes.

    Attributes:
        seconds: time that the batches took that drew them.
        embeds: z_i [D] for each seed, if the request asks for them and not for images.
    """

    images: list[Image.Image]
    seeds: list[int]
    seconds: float
    embeds: list[np.ndarray] = field(default_factory=list)


@dataclass(eq=False)
class QueuedRequest:
    """A request in the queue or in work.

    Attributes:
        model: draws it.
        size: size at which the model draws it, as `Size.plain`.
        client: whose share of the server it takes; by key or address.
        on_preview: called from the worker's thread; `on_progress` likewise.
        submitted: time of its arrival, by `time.perf_counter`.
        finish: virtual time at which a server that serves all clients at once would be done with it.
        done: number of seeds that are drawn.
        images: those that are done; `embeds` likewise.
        previews: number of previews shown.
    """

    request: GenerationRequest
    model: ServedModel
    size: int | str
    client: str = ""
    on_preview: OnPreview | None = None
    on_progress: OnProgress | None = None
    result: Future[DrawnImages] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted: float = field(default_factory=time.perf_counter)
    finish: float = 0.0
    done: int = 0
    images: list[Image.Image] = field(default_factory=list)
    embeds: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    previews: int = 0

    def __post_init__(self) -> None:
        seed = self.request.seed
        first = secrets.randbelow(2**31) if seed is None else seed
        self.seeds = [first + i for i in range(self.request.n)]

    @property
    def kind(self) -> object:
        """Requests of equal kind can be drawn in one batch."""
        wanted = self.request
        alone = None if type(wanted) in BATCHED else id(self)
        settings = wanted.options, wanted.preset, wanted.negative
        return self.model.name, type(wanted), self.size, settings, alone

    @property
    def divisible(self) -> bool:
        """Whether its images may be drawn in several batches."""
        return type(self.request) in DIVISIBLE

    @property
    def remaining(self) -> int:
        """Number of images that are not drawn yet."""
        return self.request.n - self.done


@dataclass(frozen=True)
class Share:
    """The part of a request that one batch draws."""

    queued: QueuedRequest
    seeds: list[int]

    def progress(self, batch: Progress) -> Progress:
        """Returns the request's progress, given that of the batch."""
        images, done = len(self.seeds), self.queued.done
        return batch.of_request(images, done, self.queued.remaining - images)


class FairQueue:
    """Requests that wait, in the order of weighted fair queueing. Not thread-safe: the worker holds a lock.

    Each request gets a finish tag: the time at which it would be done if every waiting client got an equal
    share of the server. The smallest tag is next (Golestani 1994, self-clocked fair queueing). One client's requests
    keep their order, and a client with a hundred requests delays another one's first by one batch.

    Args:
        capacity: images that may wait.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._waiting: list[QueuedRequest] = []
        self._clock = 0.0  # virtual time: the tag of what was taken last
        self._last: dict[str, float] = {}  # client → tag of its last request

    @property
    def images(self) -> int:
        """Number of images that wait."""
        return sum(one.remaining for one in self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, queued: QueuedRequest, pace: float) -> None:
        """Adds a request.

        A client that has nothing in the queue finds room until it is twice as long as it should be, so that a
        greedy one cannot lock the others out. A request larger than the queue may wait alone.

        Args:
            pace: seconds per image, for `Retry-After`.

        Raises:
            ApiError: 429 if there is no room.
        """
        waiting = self.images
        newcomer = all(one.client != queued.client for one in self._waiting)
        room = 2 * self.capacity if newcomer else self.capacity
        if waiting and waiting + queued.request.n > room:
            raise rate_limited("The queue is full.", waiting * pace)
        queued.finish = max(self._clock, self._last.get(queued.client, 0.0)) + queued.request.n
        self._last[queued.client] = queued.finish
        self._waiting.append(queued)

    def remove(self, queued: QueuedRequest) -> bool:
        """Removes a request; False if it does not wait."""
        if queued not in self._waiting:
            return False
        self._waiting.remove(queued)
        return True

    def take(self, most: int) -> list[Share]:
        """Takes the next batch: the request whose turn it is, and others of its kind that fit.

        A divisible request larger than `most` gives `most` images and waits again for the rest.
        """
        order = sorted(self._waiting, key=lambda one: one.finish)
        first, room, shares = order[0], most, []
        for one in order:
            if one.kind != first.kind or (one is not first and one.remaining > room):
                continue
            count = min(one.remaining, room) if one.divisible else one.remaining
            shares.append(Share(one, one.seeds[one.done : one.done + count]))
            self._waiting.remove(one)
            room -= count
        self._clock = first.finish - max(0, first.remaining - most)
        self._last = {client: tag for client, tag in self._last.items() if tag > self._clock}
        return shares

    def put_back(self, queued: QueuedRequest) -> None:
        """Returns a partly drawn request."""
        self._waiting.append(queued)

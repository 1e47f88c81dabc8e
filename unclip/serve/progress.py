"""How far a batch is, and how long the rest will take: learnt from the batches before it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

Kind = tuple[str, type, int | str]  # model, class of the requests, and the size at which they are drawn


class Progress(NamedTuple):
    """State of a request after a denoising step.

    Attributes:
        stage: role of the running stage.
        step: number of its last step, from 1; `steps` is how many there are.
        share: of the work that is done, from 0 to 1; None if not known yet.
        seconds_left: None if not known yet.
    """

    stage: str
    step: int
    steps: int
    share: float | None = None
    seconds_left: float | None = None

    def of_request(self, images: int, done: int, later: int) -> Progress:
        """Returns the progress of a request whose images are drawn in several batches.

        Args:
            images: of the request in this batch; `done` are in earlier batches, `later` in later ones.
        """
        if self.share is None or self.seconds_left is None:
            return self
        each = self.seconds_left / max(1 - self.share, 1e-6) / images
        share = (done + self.share * images) / (done + images + later)
        return self._replace(share=share, seconds_left=self.seconds_left + each * later)


OnProgress = Callable[[Progress], None]


class StageTimings:
    """What each stage takes: seconds per image and step, and image-steps per image of a kind of request."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._work: dict[Kind, dict[str, float]] = {}
        self._lock = threading.Lock()

    def begin(self, kind: Kind, images: int) -> BatchTimer:
        """Returns the timer of a new batch."""
        with self._lock:
            return BatchTimer(self, kind, images, self._work.get(kind, {}))

    def seconds(self, stage: str) -> float:
        """Seconds per image and step of a stage; 0 if it has not run yet."""
        with self._lock:
            return self._seconds.get(stage, 0.0)

    def learn(self, stage: str, seconds: float) -> None:
        """Takes one measurement into the running mean of a stage."""
        with self._lock:
            self._seconds[stage] = 0.7 * self._seconds.get(stage, seconds) + 0.3 * seconds

    def finish(self, kind: Kind, work: dict[str, float]) -> None:
        """Remembers the image-steps per image of a whole batch."""
        with self._lock:
            self._work[kind] = work


class BatchTimer:
    """Follows one batch from step to step.

    Args:
        expected: stage → image-steps per image, as in the last batch of the kind; empty for the first one.
    """

    def __init__(self, timings: StageTimings, kind: Kind, images: int, expected: dict[str, float]) -> None:
        self.timings, self.kind, self.images, self.expected = timings, kind, images, expected
        self._done: dict[str, float] = defaultdict(float)  # stage → image-steps
        self._last, self._stage = time.perf_counter(), ""

    def step(self, stage: str, number: int, total: int, images: int) -> Progress:
        """Counts a step of a stage, taken for `images` at once."""
        now = time.perf_counter()
        if stage == self._stage:  # the first step of a stage includes what lies between the stages
            self.timings.learn(stage, (now - self._last) / images)
        self._last, self._stage = now, stage
        self._done[stage] += images
        if not self.expected:
            return Progress(stage, number, total)
        whole = {role: work * self.images for role, work in self.expected.items()}
        # At least the rest of this run of the stage, where the settings are others than the last time.
        whole[stage] = max(whole.get(stage, 0.0), self._done[stage] + (total - number) * images)
        cost = {role: self.timings.seconds(role) for role in whole}
        done = sum(cost[role] * self._done[role] for role in whole)
        left = sum(cost[role] * max(0.0, work - self._done[role]) for role, work in whole.items())
        return Progress(stage, number, total, done / (done + left) if done + left else 0.0, left)

    def end(self) -> None:
        """Remembers what the whole batch took."""
        self.timings.finish(self.kind, {role: work / self.images for role, work in self._done.items()})

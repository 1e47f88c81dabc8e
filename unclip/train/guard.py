"""Reasons to end a run early: bad gradients and signals."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from unclip.errors import TrainingError
from unclip.train.config import RunConfig

log = logging.getLogger(__name__)

NAMED = 16  # sample keys that the message lists


class GradientGuard:
    """Decides whether a step's gradient is used; stops the run after too many bad ones."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self._streak = config, 0

    def passes(self, norm: float, step: int, keys: Sequence[str]) -> bool:
        """Whether a gradient is finite and not larger than `skip_norm`.

        Args:
            norm: gradient norm, equal on every process.
            step: number of the step, from 1.
            keys: keys of this process's samples.

        Raises:
            TrainingError: `skip_limit` steps in a row were bad.
        """
        optim = self.config.optim
        if math.isfinite(norm) and (optim.skip_norm is None or norm <= optim.skip_norm):
            self._streak = 0
            return True
        self._streak += 1
        log.warning("%s: skipped step %d: its gradient has norm %g", self.config.name, step, norm)
        if self._streak >= optim.skip_limit:
            of_all: list[str] = gather_object(list(keys))
            more = f" and {len(of_all) - NAMED} more" if len(of_all) > NAMED else ""
            named = ", ".join(of_all[:NAMED]) + more
            raise TrainingError(
                f"{self.config.name}: step {step} of the {self.config.stage.kind} is bad (gradient norm "
                f"{norm:g}), the last of {self._streak} in a row; its samples: {named}. Lower optim.lr or use "
                "train.precision=no; the same command resumes from the last checkpoint"
            )
        return False


class StopSignal:
    """Context that turns SIGTERM, SIGUSR1 (preemption) and Ctrl-C into a request to stop after the step.

    A second Ctrl-C raises KeyboardInterrupt at once.

    Attributes:
        interrupted: whether this process got a Ctrl-C.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self._here, self.interrupted = accelerator, False, False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._stop) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether any process got a signal. Every process must call this at the same step."""
        if self.accelerator.num_processes == 1:
            return self._here
        stop = torch.tensor([float(self._here)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(stop).item())

    def _stop(self, number: int, _: object) -> None:
        self._here = True
        if number == signal.SIGINT:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.warning("stopping after this step; Ctrl-C again stops at once and loses what is not saved")

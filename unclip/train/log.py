"""Logs of a run: metrics.jsonl, environment.json, and accelerate's trackers."""

from __future__ import annotations

import json
import logging
import platform
import time
import uuid
from pathlib import Path
from textwrap import indent

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from unclip.data.sample import described
from unclip.errors import ConfigError
from unclip.files import write_json
from unclip.train.checkpoint import Progress
from unclip.train.config import RunConfig
from unclip.train.feed import Feed

log = logging.getLogger(__name__)


def start_trackers(config: RunConfig, run: Path, accelerator: Accelerator) -> None:
    """Start accelerate's trackers. A resumed run continues its run at Weights & Biases.

    Raises:
        ConfigError: a tracker cannot start, for example without a login.
    """
    wandb = {}
    if "wandb" in config.train.trackers and accelerator.is_main_process:
        name = run / "wandb-id"
        if not name.exists():
            name.write_text(uuid.uuid4().hex, encoding="utf-8")
        wandb = {
            "id": name.read_text(encoding="utf-8").strip(),
            "resume": "allow",
            "name": run.name,
            "dir": str(run),
            "config": config.model_dump(mode="json"),
        }
    try:
        accelerator.init_trackers(config.name, init_kwargs={"wandb": wandb})
        if accelerator.is_main_process and "tensorboard" in config.train.trackers:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            # Markdown: an indented block keeps its lines.
            accelerator.get_tracker("tensorboard", unwrap=True).add_text("config", indent(text, "    "))
    except Exception as error:  # each tracker raises errors of its own
        raise ConfigError(
            f"{config.name}: train.trackers: {config.train.trackers} cannot start: {error}"
        ) from error


class Log:
    """Writes one line of JSON per report, also to the trackers. Only the main process writes."""

    def __init__(self, run: Path, accelerator: Accelerator) -> None:
        self.accelerator, self.path = accelerator, run / "metrics.jsonl"
        if accelerator.is_main_process:
            versions = {"python": platform.python_version(), "torch": torch.__version__}
            write_json(
                run / "environment.json",
                {**versions, "device": str(accelerator.device), "processes": accelerator.num_processes},
            )

    def __call__(self, step: int, **numbers: float) -> None:
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
        self.accelerator.log(dict(numbers), step=step)

    def sheet(self, step: int, path: Path) -> None:
        """Show a sample sheet in the trackers, if the stage has drawn one. Only for the main process."""
        if self.accelerator.trackers and path.is_file():
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
            for tracker in self.accelerator.trackers:
                formats = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": pixels}, step=step, **formats)


class Meter:
    """Means of metrics over the steps since the last `read`.

    Args:
        limit: images per second at the devices' peak FLOP/s, for the model FLOP utilisation (MFU). None if
            unknown.
    """

    def __init__(self, accelerator: Accelerator, feed: Feed, done: Progress, limit: float | None) -> None:
        self.accelerator, self.feed, self.done, self.limit = accelerator, feed, done, limit
        self._start()

    def add(self, loss: Tensor, norm: float) -> None:
        """Add a good step: this process's mean loss, and the global gradient norm."""
        self._losses.append(loss)
        self._norms.append(norm)

    def read(self) -> dict[str, float]:
        """Return the metrics and start anew. Every process must call this.

        The metrics: loss and gradient norm of the good steps (if any), images per second, MFU (if there is a
        limit), the share of time spent waiting for data, and the number of bad samples.
        """
        seconds = time.monotonic() - self._started
        numbers: dict[str, float] = {}
        if self._losses:
            loss = self.accelerator.reduce(torch.stack(self._losses).mean(), "mean")
            numbers = {"loss": loss.item(), "grad_norm": sum(self._norms) / len(self._norms)}
        numbers["images_per_second"] = (self.done.images - self._images) / seconds
        if self.limit is not None:
            numbers["mfu"] = numbers["images_per_second"] / self.limit
        numbers["data_wait"] = (self.feed.waited - self._waited) / seconds
        skipped = self.feed.skipped
        numbers["skipped_samples"] = int(self._sum(skipped.total()))
        if skipped:
            log.warning(
                "process %d skipped bad samples: %s", self.accelerator.process_index, described(skipped)
            )
            skipped.clear()
        self._start()
        return numbers

    def _sum(self, number: float) -> float:
        return float(
            self.accelerator.reduce(torch.tensor(float(number), device=self.accelerator.device), "sum")
        )

    def _start(self) -> None:
        self._started, self._images, self._waited = time.monotonic(), self.done.images, self.feed.waited
        self._losses: list[Tensor] = []
        self._norms: list[float] = []

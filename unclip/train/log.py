"""What a run says of itself: metrics.jsonl, environment.json, and accelerate's trackers."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
from accelerate import Accelerator

from unclip.files import write_json


class Log:
    """One line of JSON per report, and the same numbers to the trackers. Only the main process writes."""

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

"""State of a running or finished run, read from its folder."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from unclip.config import read_yaml
from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.text import lines, parse_json
from unclip.train.checkpoint import read_progress, step_folders

SHOWN = (
    "loss",
    "validation_loss",
    "cosine_to_image",
    "cosine_to_text",
    "images_per_second",
    "mfu",
    "data_wait",
    "lr",
)


def status(run: Path) -> dict[str, Any]:
    """Return the run's stage, progress, newest metrics and checkpoints.

    Raises:
        ConfigError: the folder holds no run.yaml, or a damaged one.
        CheckpointError: another file of it is damaged.
    """
    config = read_yaml(run / "run.yaml")
    try:
        return _status(run, config)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{run}: its files are damaged ({type(error).__name__}: {error})") from None


def _status(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    steps = int(config["train"]["steps"])
    newest: dict[str, Any] = {}
    for line in _lines(run / "metrics.jsonl"):
        newest.update(line)
    folders = step_folders(run)
    saved = read_progress(folders[-1]) if folders else None
    tree: dict[str, Any] = {"run": config["name"], "stage": config["stage"]["kind"]}
    tree["step"] = f"{max(int(newest.get('step', 0)), saved.step if saved else 0)} of {steps}"
    if saved and saved.step >= steps:
        tree["state"] = "finished"
    elif newest:
        tree["state"] = f"reported {time.time() - (run / 'metrics.jsonl').stat().st_mtime:.0f} s ago"
    else:
        tree["state"] = "has not reported yet"
    tree |= {name: newest[name] for name in ("images", "skipped_steps", *SHOWN) if name in newest}
    if (run / "environment.json").is_file():
        environment = read_json(run / "environment.json")
        tree["on"] = f"{environment.get('processes')} × {environment.get('device')}"
    tree["checkpoints"] = [folder.name for folder in folders]
    return tree


def _lines(path: Path) -> list[dict[str, Any]]:
    """Parse the objects of a JSONL file; lines that are half-written or damaged are left out."""
    found = []
    for line in lines(path.read_bytes().decode(errors="replace")) if path.is_file() else []:
        with suppress(ValueError):
            found.append(parse_json(line))
    return [one for one in found if isinstance(one, dict)]

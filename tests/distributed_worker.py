"""Train the runs of a JSON file and report each step, as a program for test_distributed.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import Accelerator, PartialState

from unclip.train import loop
from unclip.train.config import RunConfig


def main() -> None:
    Accelerator.end_training = lambda self: (
        None
    )  # it would close the process group, of which there is one for all runs
    for folder, tree in json.loads(Path(sys.argv[1]).read_text()).items():
        loop.train(RunConfig.model_validate(tree), Path(folder), progress=False)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()

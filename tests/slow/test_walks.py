"""The docs' long guides, run by their own commands on two processes from an empty folder.

Only the lengths are cut, as docs/how-to/data.md advises for a trial.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.data.sample import captions, picture
from unclip.data.tar import find_shards, read_samples

ROOT = Path(__file__).parents[2]
TRIAL = "train.steps=4 data.batch=8 data.calibration=32"
DATA = ("docs/how-to/data.md", "# Prepare data", "## Where shards may be")
TUTORIAL = "docs/tutorial/train-your-own.md"
STARTS = {"unclip": ["-m", "unclip"], "accelerate-launch": ["-m", "accelerate.commands.launch"]}


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Where a reader stands after cloning, whose `accelerate config` said two processes without a GPU."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    config = tmp_path / "home/accelerate/default_config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text((ROOT / "configs/accelerate/cpu-gloo.yaml").read_text())
    return tmp_path


def section(page: str, start: str, end: str) -> list[str]:
    """Its commands, one each line."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    blocks = re.findall(r"^```(?:ba)?sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line]


def walk(commands: list[str], folder: Path) -> None:
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        if "train" in arguments:
            assert program == "unclip" or arguments[:2] == ["-m", "unclip"], command
            arguments += TRIAL.split()
        done = subprocess.run(
            [sys.executable, *STARTS[program], *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
        if "train" in arguments:
            assert len(done.stdout.splitlines()) == 1, done.stdout  # one process speaks for all


def test_the_trial_is_what_the_docs_advise() -> None:
    assert f"`{TRIAL}`" in (ROOT / DATA[0]).read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_picture_of_ones_own(fresh: Path, train_shards: str) -> None:
    pictures = fresh / "pictures"
    pictures.mkdir()
    for number, sample in enumerate(read_samples(find_shards(train_shards))):
        picture(sample).save(pictures / f"{number}.jpg")
        (pictures / f"{number}.txt").write_text(captions(sample)[0])
    commands = section(*DATA)
    assert sum(command.startswith("accelerate-launch") for command in commands) == 4
    walk(commands, fresh)
    for stage in ("clip", "prior", "decoder"):
        environment = json.loads((fresh / f"runs/mine/{stage}/environment.json").read_text())
        assert environment["processes"] == 2
    with Image.open(fresh / "picture.png") as made:
        assert made.size == (64, 64)


@pytest.mark.slow
def test_the_tutorial_trains_on_class_folders(fresh: Path, train_shards: str) -> None:
    for number, sample in enumerate(read_samples(find_shards(train_shards))):
        folder = fresh / "clothes" / ("dress", "hat")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(sample).save(folder / f"{number}.jpg")
    walk(section(TUTORIAL, "## 2. Pack", "## How to get a good model"), fresh)
    assert (fresh / "my-clothes/model_index.json").is_file() and (fresh / "dress.png").is_file()


@pytest.mark.slow
def test_the_training_of_mini_by_hand(fresh: Path) -> None:
    commands = section("docs/how-to/train-mini.md", "The script runs these commands", "| stage |")
    walk([re.sub(r"--count \d+", "--count 50", command) for command in commands], fresh)
    assert (fresh / "my-menagerie/model_index.json").is_file()


@pytest.mark.slow
def test_mini_from_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/recipes/make_mini.py"), "--work", str(tmp_path), "--trial"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    card = (tmp_path / "bundle/README.md").read_text(encoding="utf-8")
    for stage in ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024"):
        assert stage in card, stage
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr[-3000:]  # everything is there, and nothing is trained again

"""Two hosts with their own addresses: Linux network namespaces joined by a veth pair."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from click.testing import CliRunner
from PIL import Image
from test_distributed import CONFIGS, losses

from unclip.cli import cli
from unclip.train.config import RunConfig
from unclip.train.loop import train

ADDRESSES = ("10.211.55.1", "10.211.55.2")


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces that reach each other under ADDRESSES."""
    names = [f"unclip-{os.getpid()}-{rank}" for rank in (0, 1)]
    cables = [f"un{os.getpid() % 100000}-{rank}" for rank in (0, 1)]

    def ip(*arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(
                f"network namespaces are not permitted: ip {' '.join(arguments)}: {done.stderr.strip()}"
            )

    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` to make network namespaces with")
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            cables[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            cables[1],
            "netns",
            names[1],
        )
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [f"{name}:{cable}" for name, cable in zip(names, cables, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def launch(hosts: list[str], commands: list[list[str]]) -> list[str]:
    """What each host's process prints, under `accelerate launch` as one of two machines."""
    processes = []
    for rank, (host, command) in enumerate(zip(hosts, commands, strict=True)):
        name, _, cable = host.partition(":")
        launched = [
            "ip",
            "netns",
            "exec",
            name,
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(CONFIGS / "two-nodes.yaml"),
            "--num_machines",
            "2",
            "--num_processes",
            "2",
            "--machine_rank",
            str(rank),
            "--main_process_ip",
            ADDRESSES[0],
            *command,
        ]
        environment = {
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "GLOO_SOCKET_IFNAME": cable,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        processes.append(
            subprocess.Popen(
                launched, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    printed = []
    try:
        for process in processes:
            out, said = process.communicate(timeout=240)
            assert process.returncode == 0, said[-3000:]
            printed.append(out)
    finally:
        for process in processes:
            process.kill()
    return printed


@pytest.mark.slow
def test_two_hosts_have_the_curve_of_one_process(
    hosts: list[str], train_shards: str, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    tree = tiny_runs.tree("upsampler", train_shards, tiny_clip_folder, streams=2, log_every=1)
    (tmp_path / "runs.json").write_text(json.dumps({str(tmp_path / "together"): tree}))
    worker = Path(__file__).parents[1] / "distributed_worker.py"
    launch(hosts, [[str(worker), str(tmp_path / "runs.json")]] * 2)
    tree["data"]["batch"] *= 2
    train(RunConfig.model_validate(tree), tmp_path / "alone", progress=False)
    assert losses(tmp_path / "together") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert json.loads((tmp_path / "together/environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_two_hosts_draw_what_one_process_draws(
    hosts: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host has a folder of its own, as machines without a common disk have."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("".join(f"a cat with {i} hats\n" for i in range(20)))  # three batches
    drawing = ["generate", "--prompts-file", "prompts.txt", "--model", str(tiny_model), "--size", "64", "-q"]
    commands = [["-m", "unclip", *drawing, "-o", f"host-{rank}/"] for rank in range(2)]
    first, second = (
        set(out.split()) for out in launch(hosts, commands)
    )  # the first host's seed, which is random, is both's
    assert (len(first), len(second)) == (12, 8)
    seed = json.loads(Path("host-0/unclip-generate.json").read_text())["seed"]
    CliRunner().invoke(cli, [*drawing, "--seed", str(seed), "-o", "alone/"], catch_exceptions=False)
    alone = sorted(Path("alone").glob("*.png"))
    assert sorted(path.name for path in alone) == sorted(Path(path).name for path in first | second)
    for path in alone:
        drawn = next(Path(host, path.name) for host in ("host-0", "host-1") if Path(host, path.name).exists())
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(drawn))).max() <= 1
    lost = {min(first), max(second)}
    for name in lost:
        Path(name).unlink()
    assert {name for out in launch(hosts, commands) for name in out.split()} == lost

"""The process of the command line: Ctrl-C, closed pipes, and locks between processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unclip.cli.process import Interrupts
from unclip.data.pack import Limits, PackJob, pack
from unclip.errors import RequestError
from unclip.files import new_folder
from unclip.locks import hold
from unclip.train.loop import train

HOLDS = """
import sys
from pathlib import Path
from unclip.locks import hold
from unclip.train.loop import train
with hold(Path("run/.lock"), "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def python(code: str, **more: Any) -> subprocess.Popen[str]:
    """A process of its own that runs the code, and that Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Not ignored, as in a shell's background jobs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )


# --- locks ---


@pytest.fixture
def holder() -> Any:
    process = python(HOLDS)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_held_lock_says_who_holds_it(holder: subprocess.Popen[str]) -> None:
    said = rf"^my run: is being written by process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d [\d:]+; wait"
    with pytest.raises(RequestError, match=said), hold(Path("run/.lock"), "my run"):
        raise AssertionError("both hold it")
    holder.communicate("")
    assert not Path("run").exists()  # the folder was made for the lock
    with hold(Path("run/.lock"), "my run"):
        assert Path("run/.lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_of_a_killed_process_holds_up_nobody(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert Path("run/.lock").exists()
    with hold(Path("run/.lock"), "run"):
        pass
    assert not Path("run/.lock").exists()


def test_one_waits_for_the_other(holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture) -> None:
    waiting = python(HOLDS.replace('"run")', '"run", wait=True)'))
    assert waiting.stderr is not None and f"waiting for process {holder.pid} on" in waiting.stderr.readline()
    holder.communicate("")
    assert waiting.stdout is not None and waiting.stdout.readline() == "held\n"
    with pytest.raises(RequestError, match=f"process {waiting.pid} on"), hold(Path("run/.lock"), "run"):
        raise AssertionError("both hold it")
    waiting.communicate("")


def test_a_folder_is_written_by_one_process() -> None:
    code = HOLDS.replace('hold(Path("run/.lock"), "run")', "new_folder(Path('model'))")
    other = python(code.replace("unclip.locks import hold", "unclip.files import new_folder"))
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(RequestError, match=f"model: .* process {other.pid}"), new_folder(Path("model")):
        raise AssertionError("both write it")
    other.communicate("")
    assert os.listdir() == ["model"]


# --- Ctrl-C ---

WORKS = """
import click, sys
from unclip import cli
@cli.cli.command()
def work():
    BODY
sys.argv = ["unclip", "work"]
cli.main()
"""
IMPORTS = "sys.path.insert(0, '.'); import slow"
SWALLOWED = """
    class Slow:
        def __del__(self):
            print("working", flush=True); time.sleep(60)
    import time
    slow = Slow(); del slow
    time.sleep(60)
"""
FORKS = """
    import concurrent.futures, time
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        print(list(pool.map(str, ["working"]))[0], flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "body",
    [
        'print("working", flush=True); import time; time.sleep(60)',
        IMPORTS,
        SWALLOWED,
        FORKS,
        FORKS.replace("print(", "import os, signal; print(").replace(
            "time.sleep(60)", "os.wait(); raise OSError"
        ),
    ],
)
def test_ctrl_c_ends_at_any_moment_with_one_line(body: str) -> None:
    Path("slow.py").write_text(
        "print('working', flush=True)\nimport time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
        "time.sleep(60)\n"
    )
    process = python(WORKS.replace("BODY", body), start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "stopped; what was finished is kept\n")


def test_a_job_in_the_background_ignores_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# --- pipes ---


def test_the_work_goes_on_when_nobody_reads_the_output() -> None:
    body = (
        'import time; time.sleep(0.3); [click.echo("x" * 9999) for _ in range(99)]; open("made", "w").close()'
    )
    process = python(WORKS.replace("BODY", body))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(timeout=30), said) == (0, "") and Path("made").exists()


def test_a_second_training_and_a_second_packing_are_refused(
    holder: subprocess.Popen[str], run_of: Any
) -> None:
    Path("pictures").mkdir()
    for second in (
        lambda: train(run_of("upsampler"), Path("run"), progress=False),
        lambda: pack(PackJob("pictures", Limits(), 10), Path("run")),
    ):
        with pytest.raises(RequestError, match=f"^run: is being written by process {holder.pid} on"):
            second()
    assert os.listdir("run") == [".lock"]

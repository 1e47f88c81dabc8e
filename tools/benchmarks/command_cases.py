"""Commands with odd arguments, and in odd environments, for `fuzz_files.py`."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
from file_cases import ODD_TEXT
from picture_cases import PIXELS

from unclip.cli import cli
from unclip.errors import UnclipError

ODD_ARGUMENTS = (
    *(one for one in ODD_TEXT if not set(one) & {"\0", "\ud800"}),  # no program can be given these
    *(
        "0",
        "1",
        "2",
        "-2",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 30,
        "1,2",
        "1,,2",
        "x=1",
        "--",
        "-",
        "--help",
    ),
    *("{}", "{prompt}", "{index:d}", "{seed", "{0}", "{prompt.__class__}", "a/{index}.png", "a.jpg", "a.gif"),
    *(
        "a.png",
        "folder",
        "empty",
        "t.csv",
        "a.txt",
        "nowhere",
        "nowhere/x.png",
        ".",
        "..",
        "a" * 300 + ".png",
    ),
)
SOUND = (*["a.png"] * 8, "folder", "a.txt", "t.csv", "out", "a fox", "a/{index}.png")
NUMBERS = {
    "integer": ("-1", "0", "1", "2", "3", "8", "9" * 30),
    "float": ("-1", "0", "0.5", "1", "3", "nan", "inf", "1e30", "1e-30"),
}
# They wait for requests, start processes, or go to the network.
LEFT_OUT = ("serve", "convert", "calibrate", "assemble")
NOT_GIVEN = ("--jobs", "--device", "--dtype")


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif not path and name in LEFT_OUT:
            continue
        else:
            yield (*path, name), command


COMMANDS = tuple(commands())


def arguments(rng: random.Random, folder: Path, model: str = "nowhere") -> str:
    """A command with odd values of its options, run in a folder with a few files.

    Args:
        model: a small model, for the commands that generate.
    """
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "a.txt").write_text("a cat\na dog\n")
    (folder / "t.csv").write_text("path,caption\na.png,a cat\n")
    PIXELS.save(folder / "a.png")
    PIXELS.save(folder / "folder/b.png")
    path, command = rng.choice(COMMANDS)
    words = list(path)
    for option in command.params:
        if isinstance(option, click.Argument):
            count = rng.choice((1, 1, 2, 0)) if option.nargs == -1 else option.nargs
            words += [rng.choice((*ODD_ARGUMENTS, *SOUND * 20)) for _ in range(count)]
        elif option.opts[0] == "--model":
            words += ["--model", rng.choice(("folder", *[model] * 9))]
        elif option.opts[0] not in NOT_GIVEN and (option.required or rng.random() < 0.12):
            flag = isinstance(option, click.Option) and option.is_flag
            words += [rng.choice(option.opts), *([] if flag else [_value(option, rng)])]
    for name, small in (("--count", "2"), ("--size", "64"), ("--steps", "1")):  # instead of large defaults
        if name not in words and any(name in option.opts for option in command.params):
            words += [name, small]
    before = set(folder.rglob("*"))
    here = os.getcwd()
    os.chdir(folder)
    try:
        code = _invoke(words)
    finally:
        os.chdir(here)
    added = [one.relative_to(folder) for one in set(folder.rglob("*")) - before]
    assert not any(part.startswith(".tmp-") for one in added for part in one.parts), f"left: {added}: {words}"
    made = [one for one in added if (folder / one).is_file() and one.suffix != ".safetensors"]  # a cache
    assert code == 0 or not made, f"left: {made}: {words}"
    return "ran" if code == 0 else "refused"


def _value(option: click.Parameter, rng: random.Random) -> str:
    """A value of the option's type, or an odd one."""
    known: tuple[str, ...] = NUMBERS.get(option.type.name.partition(" ")[0], SOUND)
    if isinstance(option.type, click.Choice):
        known = tuple(map(str, option.type.choices))
    return rng.choice(ODD_ARGUMENTS if rng.random() < 0.2 else known)


def _invoke(words: list[str]) -> int:
    """Run a command in this process as `unclip.cli.main` does; other exceptions are faults."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = cli.main(words, standalone_mode=False)
    except (UnclipError, click.ClickException, OSError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        assert text.strip() and len(text) < 20_000, f"an error that says nothing, or too much: {words}"
        return 1
    except click.Abort:
        return 1
    except BaseException as error:
        error.add_note(repr(words))
        raise
    return code if isinstance(code, int) else 0


LOCALES = ("C", "POSIX", "C.UTF-8", "en_US.UTF-8", "de_DE.ISO-8859-1", "xx_YY", "", "ja_JP.SJIS")
ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "cp932", "cp437", "utf-16", "nonsense")


@cache
def _shell() -> str:
    found = shutil.which("sh")
    assert found
    return found


def environment(rng: random.Random, folder: Path) -> str:
    """A light command as a program: locale, HOME, folder, umask, width of the terminal, closed streams."""
    home, here = folder / "home", folder / "hérè"
    here.mkdir()
    PIXELS.save(here / "ä.png")
    (here / "ä.txt").write_text("ein Bär 🐻\n")
    odd = {
        "LC_ALL": LOCALES,
        "LANG": LOCALES,
        "PYTHONIOENCODING": ENCODINGS[:-2],
        "PYTHONUTF8": ("0", "1"),
        "HOME": (str(home), "/nowhere", "", str(here / "ä.png"), "relative"),
        "XDG_CACHE_HOME": ("/nowhere/x", "", "/dev/null"),
        "TMPDIR": ("/nowhere", ""),
        "COLUMNS": ("1", "0", "-1", "x", "10000"),
        "LINES": ("0", "x"),
        "TERM": ("", "dumb", "nonsense"),
        "NO_COLOR": ("1",),
        "FORCE_COLOR": ("1",),
    }
    variables = {name: rng.choice(values) for name, values in odd.items() if rng.random() < 0.4}
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    command, expected = rng.choice(
        (
            ("--help", 0),
            ("generate --help", 0),
            ("info", 0),
            ("info ä.png", 1),
            ("info no/such/模型", 1),
            ("verify ä.png", 0),
            ("data pack . out --min-side 8", 0),
            ("data pack nowhere out", 1),
            ("train nowhere.yaml", 1),
            ("evaluate fid é", 2),
        )
    )
    gone = rng.random() < 0.1  # the folder that it starts in is removed
    first = rng.choice(("umask 000", "umask 077", "umask 0777", "umask 022", ":"))
    first += "; cd gone && rmdir ../gone" if gone else ""
    streams = rng.choice(("", "", "", "<&-", "| head -c 1", ">/dev/null", ">/dev/full"))
    (here / "gone").mkdir()
    script = f'{first}; "$0" -m unclip {command} {streams}'
    done = subprocess.run(
        [_shell(), "-c", script, sys.executable],
        cwd=here,
        env={**kept, **variables},
        capture_output=True,
        timeout=120,
    )
    what = f"{script} with {variables}: {done.returncode}, {done.stderr[-3000:].decode(errors='replace')}"
    assert b"Traceback" not in done.stderr and b"Fatal" not in done.stderr, what
    allowed = {expected, 0} if "|" in streams else {expected}
    allowed |= {1, 2} if gone or "umask 0777" in first or streams == ">/dev/full" else set()
    assert done.returncode in allowed, what
    assert done.returncode == 0 or len(done.stderr.strip().splitlines()) <= 4, what
    return "ran" if done.returncode == 0 else "refused"

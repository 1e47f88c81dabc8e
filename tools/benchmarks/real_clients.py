"""Run real clients against a real server, each in its own virtual environment.

    python tools/benchmarks/real_clients.py --size 256
    python tools/benchmarks/real_clients.py litellm --environments ~/.cache/unclip-clients

Installs the packages of `CLIENTS` with pip. Environments are kept in --environments, if given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import NamedTuple

from server_process import KEY, serving

PROGRAMS = Path(__file__).parent / "clients"


class Client(NamedTuple):
    """What to install, and the program to run with it."""

    packages: tuple[str, ...]
    program: str


CLIENTS = {
    "openai-3": Client(("openai>=3,<4", "pillow"), "cookbook.py"),
    "openai-2": Client(("openai>=2,<3", "pillow"), "cookbook.py"),
    "openai-1": Client(("openai>=1,<2", "pillow"), "cookbook.py"),
    "openai-1.3": Client(("openai==1.3.9", "httpx<0.28", "pillow"), "cookbook.py"),
    "openai-0.28": Client(("openai==0.28.1",), "openai_0_28.py"),
    "langchain": Client(("langchain-community>=0.4", "openai>=1"), "langchain_wrapper.py"),
    "litellm": Client(("litellm>=1.80",), "litellm_calls.py"),
}


def installed(client: Client, folder: Path) -> Path:
    """The Python of an environment that has the client; made at the first call."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "done"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *client.packages], check=True)
        done.touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; all if none is named"
    )
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--environments", type=Path, help="where the environments are kept")
    options = parser.parse_args()
    if unknown := set(options.clients) - set(CLIENTS):
        parser.error(f"no client {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, serving("--model", options.model) as (port, _):
        kept = options.environments or Path(temporary)
        surroundings = {
            **os.environ,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_API_BASE": f"http://127.0.0.1:{port}/v1",
            "SIZE": f"{options.size}x{options.size}",
        }
        surroundings.pop("PYTHONPATH", None)
        for name in options.clients or CLIENTS:
            client = CLIENTS[name]
            python = installed(client, kept / name)
            package = client.packages[0].partition(">")[0].partition("=")[0]
            ask = f"import importlib.metadata as m; print(m.version('{package}'))"
            version = subprocess.run(
                [python, "-c", ask], capture_output=True, text=True, check=True
            ).stdout.strip()
            started = time.perf_counter()
            ran = subprocess.run(
                [python, PROGRAMS / client.program],
                env=surroundings,
                cwd=temporary,
                capture_output=True,
                text=True,
            )
            failed += ran.returncode != 0
            said = ran.stdout.strip() or ran.stderr.strip().splitlines()[-1]
            word = "works" if ran.returncode == 0 else "FAILS"
            print(
                f"{package} {version:10} {word}  {said}  ({time.perf_counter() - started:.0f} s)", flush=True
            )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

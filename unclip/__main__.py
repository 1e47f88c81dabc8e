"""`python -m unclip`, so that `accelerate-launch -m unclip train …` works, and the command `unclip`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends it quietly."""
    try:
        from unclip.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        raise SystemExit(130) from None
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Python's end takes a moment, too


if __name__ == "__main__":
    main()

"""The user's cache folder, and a temporary one where that cannot be written."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path

from unclip.files import try_to_write

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return unclip's folder in the user's cache folder (XDG_CACHE_HOME or ~/.cache).

    A user without a home gets a temporary folder, which is removed when the process ends.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unclip"
    except RuntimeError:  # neither HOME nor an entry of this user in the system's list
        return scratch_folder()


def writable_cache(name: str) -> Path:
    """Return a subfolder of the cache folder, or a temporary one with a warning if that cannot be written."""
    folder = cache_folder() / name
    try:
        try_to_write(folder / "x")
    except OSError as error:
        log.warning(
            "%s: cannot be written (%s); nothing is cached. XDG_CACHE_HOME names another folder",
            folder,
            error.strerror or error,
        )
        return scratch_folder() / name
    return folder


@functools.cache
def scratch_folder() -> Path:
    """Return a temporary folder of this process, which is removed when it ends."""
    folder = tempfile.mkdtemp(prefix="unclip-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)

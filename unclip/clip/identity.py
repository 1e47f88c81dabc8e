"""Identities of CLIPs: names with a hash of the weights, so that one identity is one set of weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unclip.cache import cache_folder
from unclip.files import new_file


def weights_identity(name: str, state: Mapping[str, Tensor]) -> str:
    """A name for a set of weights: `name@` and the first 12 hex digits of their SHA-256."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().float().cpu().numpy().tobytes())
    return f"{name}@{digest.hexdigest()[:12]}"


def stored_identity(name: str, paths: Sequence[Path], state: Callable[[], Mapping[str, Tensor]]) -> str:
    """`weights_identity` of weights in files, cached by the files' paths, sizes and modification times.

    Args:
        paths: paths of the files.
        state: reads the weights; called only if the cache has no entry for these files.
    """
    key = hashlib.sha256(name.encode())
    for path in sorted(path.resolve() for path in paths):
        status = path.stat()
        key.update(f"\n{path} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
    cached = cache_folder() / "identities" / key.hexdigest()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = cached.read_text(encoding="utf-8")
        if found.startswith(f"{name}@"):
            return found
    identity = weights_identity(name, state())
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError), new_file(cached) as temporary:
        temporary.write_text(identity, encoding="utf-8")
    return identity

"""Models on the Hub, through its own client: its cache, its token, downloads that go on where they broke off.

The client's environment variables hold here as everywhere: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from unclip.errors import CheckpointError

# Repositories of models that unclip runs; a mistyped id is compared with them and with what is in the cache.
KNOWN = ("kakaobrain/karlo-v1-alpha", "kakaobrain/karlo-v1-alpha-image-variations")
PATTERNS = ["*.json", "*.safetensors", "*.md", "*/merges.txt"]  # no pickle is ever fetched


def is_id(ref: str) -> bool:
    """Whether that can be a repository or a folder in it: owner/name or owner/name/folder, with @revision or
    without.

    A path of three parts whose first is a local folder is taken for a mistyped path.
    """
    parts = ref.partition("@")[0].split("/")
    path = ref.startswith((".", "/", "~")) or ".." in parts or (len(parts) == 3 and Path(parts[0]).is_dir())
    return len(parts) in (2, 3) and all(parts) and not path


def split(ref: str) -> tuple[str, str]:
    """owner/name/folder@revision → (owner/name@revision, folder), with "" for no folder."""
    path, at, revision = ref.partition("@")
    owner, name, *rest = path.split("/")
    return f"{owner}/{name}{at}{revision}", "/".join(rest)


def fetch(ref: str, token: str | None = None) -> Path:
    """The folder of a repository's files, fetched if they are not in the cache.

    Args:
        ref: owner/name, or owner/name@revision for a branch, a tag or a commit.
        token: for repositories that not everybody may read; HF_TOKEN's, or that of `hf auth login`, if not
            given.

    Raises:
        CheckpointError: there is no such repository or revision, or it is not in the cache and cannot be
            fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = ref.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, token=token, allow_patterns=PATTERNS))
    except GatedRepoError:
        said = "its owner wants to be asked: accept the terms on the Hub, then give a token (HF_TOKEN)"
    except RepositoryNotFoundError:
        said = f"the Hub has no such model, or shows it to others only (HF_TOKEN){_nearest(name)}"
    except RevisionNotFoundError:
        said = f"has no revision {revision!r}"
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        said = f"not in the cache, and the Hub cannot be reached{why}{_nearest(name)}"
    except HFValidationError:
        said = f"is no Hub id, which is owner/name{_nearest(name)}"
    except (
        Exception
    ) as error:  # a connection that breaks, a disk that is full: its libraries raise what they like
        said = f"fetching it failed, and goes on if tried again ({' '.join(str(error).split())[:200] or error!r})"
    raise CheckpointError(f"{name}: {said}")


def _nearest(name: str) -> str:
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")
    known = {*KNOWN, *("/".join(path.parts[-4].split("--")[1:3]) for path in cached)} - {name}
    near = get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""

"""Model downloads from the Hugging Face Hub with its own client, cache and resumable downloads.

Honours the client's environment variables: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from unclip.errors import CheckpointError

# Known repositories; suggestions for a mistyped id come from these and from the cache.
KNOWN = ("kakaobrain/karlo-v1-alpha", "kakaobrain/karlo-v1-alpha-image-variations")
PATTERNS = ["*.json", "*.safetensors", "*.md", "*/merges.txt"]  # no pickle is ever fetched


def is_id(ref: str) -> bool:
    """Whether `ref` has the form of a Hub id: owner/name or owner/name/folder, optionally with @revision.

    A three-part path that begins with an existing local folder counts as a mistyped path.
    """
    parts = ref.partition("@")[0].split("/")
    path = ref.startswith((".", "/", "~")) or ".." in parts or (len(parts) == 3 and Path(parts[0]).is_dir())
    return len(parts) in (2, 3) and all(parts) and not path


def split(ref: str) -> tuple[str, str]:
    """Split owner/name/folder@revision into (owner/name@revision, folder); the folder may be ""."""
    path, at, revision = ref.partition("@")
    owner, name, *rest = path.split("/")
    return f"{owner}/{name}{at}{revision}", "/".join(rest)


def fetch(ref: str, token: str | None = None) -> Path:
    """Download a repository's files to the Hub's cache, if needed, and return their folder.

    Args:
        ref: owner/name, or owner/name@revision for a branch, a tag or a commit.
        token: access token for private and gated repositories. Default: HF_TOKEN, or that of `hf auth login`.

    Raises:
        CheckpointError: no such repository or revision, or a failed download.
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
        reason = "a gated repository: accept the terms on the Hub, then give a token (HF_TOKEN)"
    except RepositoryNotFoundError:
        reason = f"the Hub has no such model, or it is private (HF_TOKEN){_nearest(name)}"
    except RevisionNotFoundError:
        reason = f"has no revision {revision!r}"
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        reason = f"not in the cache, and the Hub cannot be reached{why}{_nearest(name)}"
    except HFValidationError:
        reason = f"is not a Hub id (owner/name){_nearest(name)}"
    except Exception as error:  # broken connection, full disk: the client's libraries raise many types
        why = " ".join(str(error).split())[:200] or repr(error)
        reason = f"fetching it failed, and goes on if tried again ({why})"
    raise CheckpointError(f"{name}: {reason}")


def _nearest(name: str) -> str:
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")
    known = {*KNOWN, *("/".join(path.parts[-4].split("--")[1:3]) for path in cached)} - {name}
    near = get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""

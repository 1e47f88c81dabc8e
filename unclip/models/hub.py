"""Model downloads from the Hugging Face Hub with its own client, cache and resumable downloads.

Honours the client's environment variables: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path

from unclip.errors import CheckpointError
from unclip.models.refusals import refuse_foreign

# Public unCLIP models; suggestions for a mistyped id come from these and from the cache.
KNOWN = (
    "kakaobrain/karlo-v1-alpha",
    "kakaobrain/karlo-v1-alpha-image-variations",
    "kandinsky-community/kandinsky-2-1-prior",
    "kandinsky-community/kandinsky-2-2-prior",
    "kandinsky-community/kandinsky-2-2-decoder",
    "kandinsky-community/kandinsky-2-2-decoder-inpaint",
    "sd2-community/stable-diffusion-2-1-unclip",
    "sd2-community/stable-diffusion-2-1-unclip-small",
    "ECLIPSE-Community/ECLIPSE_Karlo_Prior",
    "ECLIPSE-Community/ECLIPSE_KandinskyV22_Prior",
)
# Repositories that their owners removed, and a mirror of each.
WITHDRAWN = {
    "stabilityai/stable-diffusion-2-1-unclip": "sd2-community/stable-diffusion-2-1-unclip",
    "stabilityai/stable-diffusion-2-1-unclip-small": "sd2-community/stable-diffusion-2-1-unclip-small",
}
# Repositories of unCLIP models that cannot be read: why, and what runs them.
UNREADABLE = {
    "laion/DALLE2-PyTorch": "holds pickles of DALLE2-pytorch, whose networks are built otherwise than unclip's; "
    "DALLE2-pytorch runs them (pip install dalle2-pytorch)",
    "ECLIPSE-Community/Lambda-ECLIPSE-Prior-v1.0": "is a prior that also reads pictures of its subjects; "
    "its own program runs it (github.com/eclipse-t2i/lambda-eclipse-inference)",
}
PATTERNS = ["*.json", "*.safetensors", "*.md", "*/merges.txt"]  # no pickle is ever fetched
INDICES = ["model_index.json", "config.json"]
# Weights in half precision, whole and in shards, as diffusers and transformers name them.
HALF = ["*.fp16.safetensors", "*.fp16-*-of-*.safetensors", "*-of-*.fp16.safetensors", "*.index.fp16.json"]


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
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = ref.partition("@")
    if name in UNREADABLE:
        raise CheckpointError(f"{name}: {UNREADABLE[name]}")
    try:
        return _snapshot(name, revision or None, token)
    except CheckpointError:
        raise
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


def _snapshot(name: str, revision: str | None, token: str | None) -> Path:
    """The folder of a repository's snapshot; half precision is fetched only where there is no whole.

    Raises:
        CheckpointError: known to be a model that unclip cannot run; its weights are not fetched.
        Exception: the client's, see `fetch`.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(patterns: list[str], without: list[str] | None = None) -> Path:
        return Path(
            snapshot_download(
                name, revision=revision, token=token, allow_patterns=patterns, ignore_patterns=without
            )
        )

    try:
        listed = HfApi(token=token).list_repo_files(name, revision=revision)
    except Exception:  # the snapshot may be in the cache; otherwise its download has the same error
        try:
            return snapshot(PATTERNS)
        except LocalEntryNotFoundError:
            return snapshot(PATTERNS, HALF)
    refuse_foreign(snapshot(INDICES), name)
    return snapshot(PATTERNS, HALF if _has_whole(listed) else None)


def _has_whole(listed: list[str]) -> bool:
    """Whether there are weights in whole precision beside all weights in half precision."""
    half = [name for name in listed if any(fnmatch(name, pattern) for pattern in HALF)]
    whole = {Path(name).parent for name in listed if name.endswith(".safetensors") and name not in half}
    return all(Path(name).parent in whole for name in half)


def _nearest(name: str) -> str:
    from huggingface_hub import constants

    if name in WITHDRAWN:
        return f"; its owner withdrew it in 2025, and {WITHDRAWN[name]} is a mirror"
    cached = Path(constants.HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")
    known = {*KNOWN, *("/".join(path.parts[-4].split("--")[1:3]) for path in cached)} - {name}
    near = get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""

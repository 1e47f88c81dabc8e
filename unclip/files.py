"""Files and folders: JSON, safetensors, and atomic writes of folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.errors import CheckpointError

BUNDLED = Path(__file__).parent / "bundled"  # the models that come with the package


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: no such file, unreadable, or not an object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return tree


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Writes JSON, indented, with a final newline."""
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(folder: Path, *, replaces: str | None = None) -> Iterator[Path]:
    """A temporary sibling folder to write into, which replaces `folder` on success.

    Args:
        replaces: name of a file that marks a folder as replaceable; without it only an empty folder is
            replaced. Default: any folder is.

    Raises:
        CheckpointError: the folder exists and may not be replaced.
    """
    folder = folder.absolute()
    empty = folder.is_dir() and not any(folder.iterdir())
    if replaces and folder.exists() and not empty and not (folder / replaces).is_file():
        raise CheckpointError(f"{folder}: is there, but not a model folder (no {replaces} in it); it is kept")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """The module's state as safetensors, floating-point tensors in `dtype` if given."""
    write_weights(
        {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
            for name, tensor in module.state_dict().items()
        },
        path,
    )


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    try:
        save_file(state, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def load_weights(
    module: nn.Module, path: Path, prefix: str = "", *, dtype: torch.dtype | None = torch.float32
) -> None:
    """Loads a module's weights, on the meta device or not, from safetensors.

    Args:
        prefix: prefix to remove from the file's tensor names.
        dtype: dtype of the floating-point tensors. None keeps the stored dtypes; the tensors are then mapped
            and read when first used.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or unexpected.
    """
    state = {name.removeprefix(prefix): tensor for name, tensor in read_weights(path).items()}
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(state[name].shape)}, its config.json asks for "
                f"{tuple(tensor.shape)}"
            )
    extra = sorted(set(state) - set(expected))
    if extra:
        raise CheckpointError(
            f"{path}: tensor {extra[0]} belongs to another architecture than its config.json"
        )
    module.load_state_dict(
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, assign=True
    )


def place_weights(module: nn.Module, path: Path, placed: Callable[[str, Tensor], Tensor]) -> None:
    """Loads a module's weights again from its file, each tensor moved or converted by `placed`.

    Each tensor is mapped on its own and unmapped after its copy. With one map of the whole file the weights
    would be in memory twice.

    Raises:
        CheckpointError: the file has changed.
    """
    state = {}
    try:
        with safe_open(path, framework="pt") as file:
            stored = {current_name(key): key for key in file.keys()}  # noqa: SIM118  (not a dict)
        for name in module.state_dict():
            with safe_open(path, framework="pt") as file:
                state[name] = placed(name, file.get_tensor(stored[name]))
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: changed since it was loaded ({error})") from None
    module.load_state_dict(state, assign=True)


def current_name(name: str) -> str:
    """The current name of a tensor; version 0.1.0 called the first and last layers `enter` and `leave`."""
    name = re.sub(r"\b(unet|expert)\.enter\.", r"\1.conv_in.", name)
    name = re.sub(r"\b(unet|expert)\.leave\.", r"\1.conv_out.", name)
    return re.sub(r"\bnetwork\.leave\.", "network.out_proj.", name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file; other formats are refused, because a pickle can run code.

    Raises:
        CheckpointError: no such file, not safetensors, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: only safetensors files are read; a pickle can run anything it likes")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {current_name(name): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors ({error})") from None


def read_ahead(path: Path) -> None:
    """Asks the system to prefetch a file, where it supports such advice; returns at once."""
    if hasattr(os, "posix_fadvise") and path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def cache_folder() -> Path:
    """The user's cache folder (XDG) for files that can be recomputed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unclip"

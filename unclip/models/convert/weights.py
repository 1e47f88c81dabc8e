"""Read other programs' weights: safetensors, whole or in shards, and pickles of plain tensors."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unclip import files
from unclip.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # file stems of diffusers and transformers


def read_component(folder: Path) -> dict[str, Tensor]:
    """The tensors of a component's folder; safetensors are memory-mapped.

    Whole precision is preferred to a variant (`model.fp16.safetensors`), safetensors to pickles.

    Raises:
        CheckpointError: no weights, damaged ones, or several variants to choose from.
    """
    for suffix, read in ((".safetensors", files.read_weights), (".bin", _read_bin)):
        for stem in STEMS:
            if (folder / f"{stem}{suffix}").is_file():
                return read(folder / f"{stem}{suffix}")
            if (folder / f"{stem}{suffix}.index.json").is_file():
                return _shards(folder / f"{stem}{suffix}.index.json", read)
        if (variant := _variant(folder, suffix)) is not None:
            return _shards(variant, read) if variant.suffix == ".json" else read(variant)
    snapshot = "snapshots" in folder.parts  # of the Hub's cache
    raise CheckpointError(
        f"{folder}: no weights in it (no {STEMS[0]}.safetensors nor {STEMS[1]}.safetensors)"
        + ("; pickles (.bin) are not fetched: `hf download` the repository and give that folder" * snapshot)
    )


def _variant(folder: Path, suffix: str) -> Path | None:
    """The weights, or the index of their shards, of a folder with one variant only (`variant="fp16"`)."""
    whole = [path for stem in STEMS for path in folder.glob(f"{stem}.*{suffix}") if "-of-" not in path.name]
    indices = [path for stem in STEMS for path in folder.glob(f"{stem}{suffix}.index.*.json")]
    found = sorted([*whole, *indices])
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: several variants of the weights ({', '.join(path.name for path in found)}); keep one"
        )
    return found[0] if found else None


def _read_bin(path: Path) -> dict[str, Tensor]:
    return tensors(read_pickle(path), path)


def read_pickle(path: Path) -> Any:
    """Load a torch.save file of plain containers of tensors; no other class is imported (`weights_only`).

    Raises:
        CheckpointError: missing, damaged, or a pickle of anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other torch versions; real failures are reported below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused, this pickle holds more than tensors and could run anything"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from None


def tensors(tree: Any, path: Path) -> dict[str, Tensor]:
    """The tree as a state dict; CheckpointError if it does not map names to tensors."""
    if not isinstance(tree, dict) or not all(isinstance(value, Tensor) for value in tree.values()):
        raise CheckpointError(f"{path}: expected names and tensors")
    return tree


def filled(module: M, name: Callable[[str], str], weights: dict[str, Tensor], where: Path) -> M:
    """Fill a module from another program's state dict, whose tensors must match it one to one.

    Args:
        module: on the meta device.
        name: maps our tensor's name to theirs.
        weights: their state dict; emptied.
        where: the source, for messages.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    state = {}
    for ours, wanted in module.state_dict().items():
        theirs = name(ours)
        if theirs not in weights:
            raise CheckpointError(f"{where}: tensor {theirs} is missing")
        tensor = weights.pop(theirs)
        row = tensor.shape == (1, *wanted.shape)  # the embeddings' mean and std, stored as [1, D]
        if tensor.shape != wanted.shape and not row:
            raise CheckpointError(
                f"{where}: tensor {theirs} has shape {tuple(tensor.shape)}, its config.json asks for "
                f"{tuple(wanted.shape)}"
            )
        state[ours] = tensor[0] if row else tensor
    if weights:
        raise CheckpointError(
            f"{where}: tensor {min(weights)} belongs to another architecture than its config.json"
        )
    module.load_state_dict(state, assign=True)
    return module


def _shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    table = files.read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{index}: has no weight_map")
    found: dict[str, Tensor] = {}
    for name in sorted(set(table.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: {name!r} points outside the folder")
        found.update(read(index.parent / name))
    missing = sorted(set(table) - set(found))
    if missing:
        raise CheckpointError(f"{index}: tensor {missing[0]} is in none of its files")
    return found

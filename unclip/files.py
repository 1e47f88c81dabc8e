"""Files: atomic writes, JSON and safetensors.

Importing this module does not import torch, so that packing data starts at once in many processes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from unclip.errors import CheckpointError
from unclip.locks import hold
from unclip.text import parse_json, read_text, to_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BUNDLED = Path(__file__).parent / "bundled"  # the models that come with the package
UNFINISHED = ".tmp-"  # prefix of files that are being written; left behind by a process that was killed
NAME_KEPT = 60  # characters at the end of a file's name that its temporary name repeats


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, unreadable or holds something else.
    """
    text = read_text(path, CheckpointError)
    try:
        tree = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return tree


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write an indented JSON file atomically."""
    with new_file(path) as temporary:
        temporary.write_text(to_json(tree, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, fsync the file and rename it to `path`.

    The temporary file lies beside `path` and keeps its suffix. Its name is unique, so several processes may
    write the same file: the last one wins. Missing folders are created. A symbolic link stays; the file that
    it points to is replaced.

    Raises:
        OSError: the file cannot be written. `path` is then as it was before.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is a folder or a device, not a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # The end of the name only: a name may have up to 255 bytes, and this prefix must fit, too.
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name[-NAME_KEPT:]}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def try_to_write(path: Path) -> None:
    """Create an empty file of the same name in a temporary folder beside `path`, and remove it.

    What would fail after the work fails before it: a name that is too long, a folder that is a file or is
    read-only, a drive that does not exist.

    Raises:
        OSError: neither a file nor a folder can be written as `path`.
    """
    path = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        path.stat()
    there = next((parent for parent in path.parents if parent.exists()), None)
    if there is None:
        raise FileNotFoundError(errno.ENOENT, "no such drive", str(path))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file", str(path))
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=there) as scratch:
        copy = Path(scratch) / path.relative_to(there)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder that match a glob, sorted, without files that are being written."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith(UNFINISHED))


@contextmanager
def new_folder(folder: Path, *, replaces: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success, fsync its files and rename it to `folder`.

    One process at a time writes a folder. A symbolic link stays; the folder that it points to is replaced.

    Args:
        replaces: name of a file that identifies a folder that may be replaced. Any other folder that is not
            empty is an error. None replaces whatever is there.

    Raises:
        CheckpointError: `folder` exists and has no file `replaces`, or it cannot be written.
        RequestError: another process is writing it.
    """
    shown, folder = folder, Path(os.path.realpath(folder))
    empty = folder.is_dir() and not any(folder.iterdir())
    if replaces and folder.exists() and not empty and not (folder / replaces).is_file():
        raise CheckpointError(f"{shown}: is there, but not a model folder (no {replaces} in it); it is kept")
    if folder.is_mount():
        raise CheckpointError(f"{shown}: is a mount point, which cannot be replaced; name a folder in it")
    try:
        try_to_write(folder)
    except OSError as error:
        raise CheckpointError(f"{shown}: cannot be written ({error.strerror or error})") from None
    with hold(folder.with_name(f".{folder.name}.lock"), str(shown)):
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _fsync(file)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            _fsync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a module's state dict as safetensors, floating-point tensors in `dtype` if given."""
    write_weights(
        {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
            for name, tensor in module.state_dict().items()
        },
        path,
    )


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.torch import save_file

    try:
        save_file(state, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
    path.chmod(0o644)  # safetensors creates files that only their owner can read


def load_weights(
    module: nn.Module, path: Path, prefix: str = "", *, keep_dtype: bool = False, partly: bool = False
) -> None:
    """Load a module's weights from safetensors. The module may be on the meta device.

    Args:
        prefix: removed from the names in the file.
        keep_dtype: keep the dtypes of the file; the tensors are then memory-mapped and read on first use.
            Otherwise floating-point tensors become float32.
        partly: the file may hold tensors of other modules, too; they are not read.

    Raises:
        CheckpointError: a tensor is missing, unknown or has another shape; the message names it.
    """
    state = {name.removeprefix(prefix): tensor for name, tensor in read_weights(path).items()}
    wanted = module.state_dict()
    if partly:
        state = {name: tensor for name, tensor in state.items() if name in wanted}
    for name, tensor in wanted.items():
        if name not in state:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(state[name].shape)}, its config.json asks for "
                f"{tuple(tensor.shape)}"
            )
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise CheckpointError(
            f"{path}: tensor {extra[0]} belongs to another architecture than its config.json"
        )
    module.load_state_dict(
        {k: v if keep_dtype or not v.is_floating_point() else v.float() for k, v in state.items()},
        assign=True,
    )


def place_weights(
    module: nn.Module, path: Path, placed: Callable[[str, Tensor], Tensor], prefix: str = ""
) -> None:
    """Reload a module's weights from their file, each tensor passed through `placed(name, tensor)`.

    `placed` moves or converts a tensor. The file is mapped anew after every 64 MiB, and each map is closed
    after the copy: with one map of the whole file, the weights would be in memory twice.

    Args:
        prefix: of the names of the weights to reload; the others stay.

    Raises:
        CheckpointError: the file has changed since it was loaded.
    """
    state: dict[str, Tensor] = {}
    names = [name for name in module.state_dict() if name.startswith(prefix)]
    try:
        with safe_open(path, framework="pt") as file:
            stored = {current_name(key): key for key in file.keys()}  # noqa: SIM118  (not a dict)
        while len(state) < len(names):
            read = 0
            with safe_open(path, framework="pt") as file:
                for name in names[len(state) :]:
                    tensor = file.get_tensor(stored[name])
                    state[name] = placed(name, tensor)
                    read += tensor.nbytes
                    if read > 2**26:
                        break
            del tensor
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: changed since it was loaded ({error})") from None
    module.load_state_dict(state, assign=True, strict=False)


def current_name(name: str) -> str:
    """Translate a tensor name of version 0.1.0, which called conv_in and conv_out `enter` and `leave`."""
    name = re.sub(r"\b(unet|expert)\.enter\.", r"\1.conv_in.", name)
    name = re.sub(r"\b(unet|expert)\.leave\.", r"\1.conv_out.", name)
    return re.sub(r"\bnetwork\.leave\.", "network.out_proj.", name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged or not safetensors. Pickles are refused.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: only safetensors files are read; a pickle can run anything it likes")
    try:
        with safe_open(path, framework="pt") as file:
            return {current_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors ({error})") from None


def read_ahead(path: Path) -> None:
    """Ask the operating system to read a file into its cache in the background, if it can."""
    if hasattr(os, "posix_fadvise") and path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

"""Files of embeddings and of vectors: safetensors and .npy. Nothing in them is unpickled.

Importing this module does not import torch, so that packing data starts at once in many processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from unclip.errors import RequestError
from unclip.files import new_file

if TYPE_CHECKING:
    from torch import Tensor

IMAGE: Final = "image_embeds"  # name of the tensor of z_i
TEXT: Final = "text_embeds"  # of z_t
VECTORS: Final = "vectors"
SUFFIXES: Final = (".safetensors", ".npy")
NAMED = 8  # tensors that a message lists


@dataclass(frozen=True, eq=False)
class Embeddings:
    """CLIP embeddings, and what is known of them.

    Attributes:
        image_embeds: z_i (or z_t, which the decoder also accepts), float32 [N, D].
        clip: identity of their CLIP; None if not known.
        names: the file or the caption of each; empty if not known.
        seeds: the seed of each that was sampled; empty if none was.
    """

    image_embeds: Tensor
    clip: str | None = None
    names: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.image_embeds)


def read_embeddings(path: str | Path) -> Embeddings:
    """Read embeddings [D] or [N, D] of any floating-point type from .npy or safetensors.

    Of a safetensors file, the tensor `image_embeds` is read, or its only one of two dimensions.

    Raises:
        RequestError: no such file, another format or shape, no embedding, or numbers that are not finite.
    """
    tensor, about = _read(Path(path), IMAGE)
    return Embeddings(
        check_embeddings(tensor, str(path)),
        about.get("clip"),
        tuple(map(str, _listed(about, "names", len(tensor)))),
        tuple(int(seed) for seed in _listed(about, "seeds", len(tensor)) if isinstance(seed, int)),
    )


def write_embeddings(path: str | Path, embeddings: Embeddings, *, name: str = IMAGE) -> None:
    """Write embeddings to safetensors with all that is known of them, or to .npy as the bare array; atomic.

    Args:
        name: name of the tensor in a safetensors file.

    Raises:
        RequestError: another suffix, or the file cannot be written.
    """
    check_suffix(path := Path(path))
    tensor = embeddings.image_embeds.detach().float().cpu().contiguous()
    about = {"format": "pt", "names": json.dumps(embeddings.names), "seeds": json.dumps(embeddings.seeds)}
    if embeddings.clip is not None:
        about["clip"] = embeddings.clip
    try:
        with new_file(path) as temporary:
            if path.suffix.lower() == ".npy":
                with temporary.open("wb") as file:
                    np.save(file, tensor.numpy(), allow_pickle=False)
            else:
                from safetensors.torch import save_file

                save_file({name: tensor}, temporary, about)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path}: cannot be written ({reason})") from None


def check_embeddings(tensor: Tensor, name: str) -> Tensor:
    """Check embeddings [D] or [N, D] and return them as [N, D].

    Args:
        name: what they are, for messages.

    Raises:
        RequestError: another shape, no embedding, or numbers that are not finite.
    """
    if tensor.ndim not in (1, 2):
        raise RequestError(f"{name}: has the shape {list(tensor.shape)}; embeddings are [D] or [N, D]")
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if not rows.numel():
        raise RequestError(f"{name}: has the shape {list(tensor.shape)}: it holds no embedding")
    check_finite(rows, name)
    return rows


def check_finite(rows: Tensor, name: str) -> None:
    """RequestError if a row [N, ...] holds NaN or an infinite number."""
    wrong = (~rows.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        raise RequestError(
            f"{name}: {len(wrong)} of {len(rows)} rows hold NaN or infinite numbers, the first is row "
            f"{wrong[0]}"
        )


def check_suffix(path: Path) -> None:
    """RequestError if a path's suffix is none of a format that is read and written here."""
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path}: the name must end in {' or '.join(SUFFIXES)}")


def read_vectors(path: str | Path) -> Tensor:
    """Read vectors [N, width] or [N, count, width] from .npy or safetensors, as float32.

    Raises:
        RequestError: no such file or another format, no vector, or numbers that are not finite.
    """
    tensor, _ = _read(Path(path), VECTORS)
    if not tensor.ndim or not tensor.numel():
        raise RequestError(f"{path}: has the shape {list(tensor.shape)}: it holds no vector")
    check_finite(tensor[None] if tensor.ndim == 1 else tensor, str(path))
    return tensor


def parse_npy(file: BinaryIO) -> NDArray[np.float32]:
    """Read an .npy file of numbers.

    Raises:
        ValueError: not an .npy file, damaged, or it holds something else than real numbers.
    """
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        if "allow_pickle" in str(error):
            raise ValueError("it holds Python objects (a pickle), which are never loaded") from None
        raise ValueError(f"not a readable .npy file ({' '.join(str(error).split())})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of several arrays; save one of them with numpy.save")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"it holds {array.dtype}, no real numbers; save them as float32")
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and are refused as such
        return array.astype(np.float32)


def _read(path: Path, name: str) -> tuple[Tensor, dict[str, str]]:
    """The tensor of a file as float32, and the metadata; see `read_embeddings`."""
    import torch

    if path.suffix.lower() in (".pt", ".pth", ".pkl", ".ckpt", ".bin"):
        raise RequestError(f"{path}: pickles are never loaded; save the tensor as safetensors or .npy")
    check_suffix(path)
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return torch.from_numpy(parse_npy(file)), {}
        with safe_open(path, framework="pt") as opened:
            key = _chosen(path, opened, name)
            return opened.get_tensor(key).float(), opened.metadata() or {}
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise RequestError(f"{path}: not a readable safetensors file ({error})") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _chosen(path: Path, opened: Any, name: str) -> str:
    """The key of the tensor to read: `name`, or the only tensor of two dimensions."""
    shapes: dict[str, list[int]] = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118  (not a dict)
    if name in shapes:
        return name
    flat = [key for key, shape in shapes.items() if len(shape) == 2]
    if len(flat) == 1:
        return flat[0]
    listed = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:NAMED])
    more = f" and {len(shapes) - NAMED} more" if len(shapes) > NAMED else ""
    raise RequestError(f"{path}: has no tensor {name}; it holds {listed or 'none'}{more}")


def _listed(about: dict[str, str], key: str, count: int) -> Sequence[Any]:
    """A list of the metadata; empty if it does not fit the embeddings."""
    try:
        found = json.loads(about.get(key, "[]"))
    except ValueError:
        return ()
    return found if isinstance(found, list) and len(found) == count else ()

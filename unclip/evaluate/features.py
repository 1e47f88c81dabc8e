"""Features of images, by a choice of encoder: computed by several processes and cached by content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import torch
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unclip.cache import cache_folder
from unclip.clip import Clip, encode_pictures
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.data.sample import scaled
from unclip.device import join_processes
from unclip.errors import CheckpointError, DataError, RequestError
from unclip.evaluate.pictures import Pictures
from unclip.files import new_file, write_weights
from unclip.images import centre_square, to_tensor
from unclip.models.convert.weights import read_pickle

log = logging.getLogger(__name__)

SHEET = 64  # images of a contact sheet


@dataclass(frozen=True)
class Extractor:
    """An encoder of images.

    Attributes:
        identity: name of its weights; features of different identities cannot be compared.
        encode: B images of one size → [B, D].
        classifies: whether the features are a classifier's logits.
    """

    identity: str
    encode: Callable[[Sequence[Image.Image]], Tensor]
    classifies: bool = False


def clip_extractor(clip: Clip) -> Extractor:
    """Extract CLIP's image embeddings, unnormalised, with CLIP's own preprocessing."""
    return Extractor(f"clip {clip.identity}", lambda pictures: encode_pictures(clip, pictures).float().cpu())


def inception_extractor(weights: Path | None, *, logits: bool) -> Extractor:
    """Extract features of torch-fidelity's Inception v3, which published FIDs use.

    Args:
        weights: file of weights. None uses torch's cache, or downloads them.
        logits: extract logits [B, 1008] instead of pool features [B, 2048].

    Raises:
        RequestError: torch-fidelity is not installed, or the weights cannot be read.
    """
    declare_missing_schemas()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError:
        raise RequestError("--features inception needs torch-fidelity: pip install torch-fidelity") from None
    layer = "logits_unbiased" if logits else "2048"
    try:
        if weights is None:
            weights = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
            if not weights.is_file():
                weights.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(weights), progress=False)
        read_pickle(weights)  # refuses pickles that hold more than tensors; torch-fidelity would run them
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", [layer], feature_extractor_weights_path=str(weights)
        )
    except Exception as error:  # downloads and damaged files raise errors of many kinds
        raise RequestError(
            f"--features inception: its weights cannot be read ({' '.join(str(error).split())[:200]}); "
            "give their file as inception:PATH, or measure with CLIP's features"
        ) from None
    network.to(_device()).eval()

    def encode(pictures: Sequence[Image.Image]) -> Tensor:
        (found,) = network(((stacked(pictures) + 1) * 127.5).round().to(_device(), torch.uint8))
        features: Tensor = found.float().cpu()
        return features

    digest = hashlib.blake2b(digest_size=6)
    for value in network.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return Extractor(f"inception {digest.hexdigest()} {layer}", encode, classifies=logits)


@dataclass(frozen=True)
class Encoded:
    """Features [N, D] of a set, and its first images."""

    features: Tensor
    pictures: list[Image.Image]


def encode(
    pictures: Pictures, extractor: Extractor, *, size: int | None, batch: int, cache: Path | None
) -> Encoded:
    """Encode all images of a set; every process gets all features.

    Args:
        size: side in pixels to which the centre square of each image is resized. None keeps the images.
        batch: images per batch.
        cache: folder in which features are kept by the content of the set. None keeps nothing.

    Raises:
        DataError: the images have several sizes and `size` is None, an image is unreadable, or a file in the
            cache is damaged.
    """
    kept = _cache_path(pictures, extractor, size, cache)
    if kept is not None and kept.is_file():
        return Encoded(_read(kept), [_brought(image, size) for image in islice(pictures.read(0, 1), SHEET)])
    state = join_processes()
    rows: list[Tensor] = []
    sheet: list[Image.Image] = []
    sizes: set[tuple[int, int]] = set()
    source = pictures.read(state.process_index, state.num_processes)
    while part := [_brought(image, size) for image in islice(source, batch)]:
        sizes |= {image.size for image in part}
        if len(sizes) > 1:
            several = ", ".join(f"{width} × {height}" for width, height in sorted(sizes))
            raise DataError(
                f"{pictures.name}: pictures of several sizes ({several}); --size N brings all to one"
            )
        with torch.inference_mode():
            rows += extractor.encode(part)
        sheet += part[: SHEET - len(sheet)]
    shares = gather_object([rows]) if state.num_processes > 1 else [rows]
    # Process r read images r, r + n, …: interleaving the shares restores the order.
    whole = [row for turn in zip_longest(*shares) for row in turn if row is not None]
    if not whole:
        raise DataError(f"{pictures.name}: no pictures in it")
    features = torch.stack(whole)
    if kept is not None and state.is_main_process:
        _write(kept, features)
    return Encoded(features, sheet)


@torch.inference_mode()
def encode_texts(clip: Clip, captions: Sequence[str], batch: int) -> Tensor:
    """Encode captions as CLIP text embeddings z_t, unnormalised [N, D]."""
    parts = [captions[start : start + batch] for start in range(0, len(captions), batch)]
    return torch.cat([clip.encode_text(part).embed.float().cpu() for part in parts])


@torch.inference_mode()
def features_of(images: Iterable[Image.Image], extractor: Extractor, batch: int) -> Tensor:
    """Encode images of one size as features [N, D]."""
    source = iter(images)
    return torch.cat([extractor.encode(part) for part in iter(lambda: list(islice(source, batch)), [])])


def default_cache() -> Path:
    """Return the default cache of features: unclip/features in the user's cache folder."""
    return cache_folder() / "features"


def _cache_path(
    pictures: Pictures, extractor: Extractor, size: int | None, cache: Path | None
) -> Path | None:
    content = pictures.content() if cache is not None else None
    if cache is None or content is None:
        return None
    key = hashlib.blake2b(f"{extractor.identity}/{size}/{content}".encode(), digest_size=16).hexdigest()
    return cache / f"{key}.safetensors"


def _read(path: Path) -> Tensor:
    try:
        return load_file(path)["features"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{path}: damaged cache of features ({error}); delete the file and run again"
        ) from None


def _write(path: Path, features: Tensor) -> None:
    try:
        with new_file(path) as temporary:
            write_weights({"features": features}, temporary)
    except (OSError, CheckpointError) as error:  # a cache that cannot be written only costs time
        log.warning(
            "%s: the features are not kept, it cannot be written (%s); --cache names another folder",
            path.parent,
            getattr(error, "strerror", None) or error,
        )


def _brought(image: Image.Image, size: int | None) -> Image.Image:
    return image if size is None else scaled(centre_square(image), size)


def stacked(pictures: Sequence[Image.Image]) -> Tensor:
    """Stack images of one size to a tensor [B, 3, H, W] in [−1, 1]."""
    return torch.stack([to_tensor(one) for one in pictures])


def _device() -> torch.device:
    return torch.device(join_processes().device)

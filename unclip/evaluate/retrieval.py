"""CLIP retrieval between images and captions (Radford et al. 2021, §3.1.5).

For captions "CONCEPT in STYLE style", also the retrieval of concept and style alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.clip import Clip
from unclip.errors import RequestError
from unclip.evaluate.features import clip_extractor, encode_texts
from unclip.evaluate.metrics import Estimate, recall
from unclip.evaluate.pictures import Pictures
from unclip.evaluate.quality import Quality, Settings, encoded, quality

PLACES = (1, 5, 10)
_CAPTION = "{} in {} style"
_PARTS = re.compile(r"(.+) in (.+) style")  # split at the last " in ": "person in tuxedo in Noto style"


def retrieval(pictures: Pictures, clip: Clip, settings: Settings) -> Quality:
    """Measure recall@1, 5 and 10 in both directions within a set. Images of equal captions all match.

    With captions that name a concept and a style, each image is also classified by the set's concepts and by
    its styles. A concept's embedding is the mean over its captions in every style; a style's embedding is the
    mean over every concept.

    Raises:
        DataError: an image has no caption.
        RequestError: all captions are equal.
    """
    extractor = clip_extractor(clip)
    captions = list(pictures.captions())
    distinct, own = _numbered(captions)
    if len(distinct) < 2:
        raise RequestError(
            f"{pictures.name}: {len(captions)} pictures of one caption; there is nothing to tell apart"
        )
    images = encoded(pictures, extractor, settings)
    texts = encode_texts(clip, distinct, settings.batch)
    of_texts = torch.arange(len(distinct))
    figures = {
        **_recalls("caption of picture", images.features, texts, (own, of_texts), settings),
        **_recalls("picture of caption", texts, images.features, (of_texts, own), settings),
    }
    about: dict[str, Any] = {"captions": len(distinct)}
    parsed = [(i, match.groups()) for i, text in enumerate(captions) if (match := _PARTS.fullmatch(text))]
    if parsed:
        features = images.features[[i for i, _ in parsed]]
        concepts, concept = _numbered([parts[0] for _, parts in parsed])
        styles, style = _numbered([parts[1] for _, parts in parsed])
        grid = _unit_embeddings(clip, concepts, styles, settings.batch)
        for name, embeds, truth in (
            ("concept", grid.mean(dim=1), concept),
            ("style", grid.mean(dim=0), style),
        ):
            right = truth, torch.arange(len(embeds))
            figures |= _recalls(f"{name} of picture", features, embeds, right, settings)
        about |= {"of concept and style": len(parsed), "concepts": len(concepts), "styles": len(styles)}
    return quality(figures, pictures, images, extractor, settings, about)


def _recalls(
    name: str, queries: Tensor, candidates: Tensor, right: tuple[Tensor, Tensor], settings: Settings
) -> dict[str, Estimate]:
    """Recall at those of PLACES that are smaller than the number of candidates."""
    places = [k for k in PLACES if k < len(candidates)]
    if not places:
        return {}
    found = recall(queries, candidates, right, places, resamples=settings.resamples, seed=settings.seed)
    return {f"{name} @{k}": figure for k, figure in found.items()}


def _numbered(names: Sequence[str]) -> tuple[list[str], Tensor]:
    """Return the distinct names, sorted, and the index of each name, [N]."""
    distinct = sorted(set(names))
    numbers = {name: i for i, name in enumerate(distinct)}
    return distinct, torch.tensor([numbers[name] for name in names])


def _unit_embeddings(clip: Clip, concepts: Sequence[str], styles: Sequence[str], batch: int) -> Tensor:
    """Embed the caption of every concept in every style: unit vectors [C, S, D]."""
    prompts = [_CAPTION.format(concept, style) for concept in concepts for style in styles]
    return F.normalize(encode_texts(clip, prompts, batch), dim=1).view(len(concepts), len(styles), -1)

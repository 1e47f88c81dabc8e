"""Whether CLIP finds the caption of each picture and the picture of each caption (Radford et al. 2021,
§3.1.5), and, where captions say "CONCEPT in STYLE style", whether it reads either part by itself.
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
_PARTS = re.compile(r"(.+) in (.+) style")  # the last " in " parts them: "person in tuxedo in Noto style"


def retrieval(pictures: Pictures, clip: Clip, settings: Settings) -> Quality:
    """Recall@1, 5 and 10 both ways among all that the set holds; pictures of one caption are right for each
    other's.

    With captions that name a concept and a style, each picture is also called by one of the set's concepts,
    and by one of its styles. A concept's embedding is the mean over its captions in every style, and a
    style's over all concepts.

    Raises:
        DataError: a picture has no caption. RequestError: all have the same one.
    """
    extractor = clip_extractor(clip)
    captions = list(pictures.captions())
    distinct, own = _numbered(captions)
    if len(distinct) < 2:
        raise RequestError(
            f"{pictures.name}: {len(captions)} pictures of one caption; there is nothing to tell apart"
        )
    shown = encoded(pictures, extractor, settings)
    texts = encode_texts(clip, distinct, settings.batch)
    of_texts = torch.arange(len(distinct))
    figures = {
        **_recalls("caption of picture", shown.features, texts, (own, of_texts), settings),
        **_recalls("picture of caption", texts, shown.features, (of_texts, own), settings),
    }
    about: dict[str, Any] = {"captions": len(distinct)}
    parted = [(i, match.groups()) for i, said in enumerate(captions) if (match := _PARTS.fullmatch(said))]
    if parted:
        features = shown.features[[i for i, _ in parted]]
        concepts, concept = _numbered([said[0] for _, said in parted])
        styles, style = _numbered([said[1] for _, said in parted])
        grid = _unit_embeddings(clip, concepts, styles, settings.batch)
        for name, embeds, truth in (
            ("concept", grid.mean(dim=1), concept),
            ("style", grid.mean(dim=0), style),
        ):
            right = truth, torch.arange(len(embeds))
            figures |= _recalls(f"{name} of picture", features, embeds, right, settings)
        about |= {"of concept and style": len(parted), "concepts": len(concepts), "styles": len(styles)}
    return quality(figures, pictures, shown, extractor, settings, about)


def _recalls(
    name: str, queries: Tensor, candidates: Tensor, right: tuple[Tensor, Tensor], settings: Settings
) -> dict[str, Estimate]:
    """At each place that leaves a choice."""
    places = [k for k in PLACES if k < len(candidates)]
    if not places:
        return {}
    found = recall(queries, candidates, right, places, resamples=settings.resamples, seed=settings.seed)
    return {f"{name} @{k}": figure for k, figure in found.items()}


def _numbered(names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct names in order, and each one's number among them, [N]."""
    distinct = sorted(set(names))
    numbers = {name: i for i, name in enumerate(distinct)}
    return distinct, torch.tensor([numbers[name] for name in names])


def _unit_embeddings(clip: Clip, concepts: Sequence[str], styles: Sequence[str], batch: int) -> Tensor:
    """Of every concept in every style, [C, S, D]."""
    said = [_CAPTION.format(concept, style) for concept in concepts for style in styles]
    return F.normalize(encode_texts(clip, said, batch), dim=1).view(len(concepts), len(styles), -1)

"""CLIP retrieval between images and captions (Radford et al. 2021, §3.1.5).

For captions "CONCEPT in STYLE style", also the retrieval of concept and style alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.clip import Clip
from unclip.errors import RequestError
from unclip.evaluate.features import clip_extractor, encode_texts
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.pictures import Pictures
from unclip.evaluate.quality import Quality, Settings, encoded, quality, too_few
from unclip.evaluate.recall import chance_of_recall, recall

PLACES = (1, 5, 10)
_CAPTION = "{} in {} style"
_PARTS = re.compile(r"(.+) in (.+) style")  # split at the last " in ": "person in tuxedo in Noto style"


def retrieval(pictures: Pictures, clip: Clip, settings: Settings) -> Quality:
    """Measure recall@1, 5 and 10 in both directions within a set, with all captions of each image.

    An image matches each of its captions, and a caption matches every image that has it. With captions that
    name a concept and a style, each image is also classified by the set's concepts and by its styles. A
    concept's embedding is the mean over its captions in every style; a style's embedding is the mean over
    every concept.

    Raises:
        DataError: an image has no caption.
        RequestError: all captions are equal.
    """
    extractor = clip_extractor(clip)
    several = pictures.captions()
    distinct, matches = _numbered(several)
    if len(distinct) < 2:
        raise RequestError(
            f"{pictures.name}: {len(several)} pictures of one caption; there is nothing to tell apart"
        )
    images = encoded(pictures, extractor, settings)
    texts = encode_texts(clip, distinct, settings.batch)
    asked = [
        ("caption of picture", images.features, texts, matches),
        ("picture of caption", texts, images.features, (matches[1], matches[0])),
    ]
    about: dict[str, Any] = {"captions": len(distinct)}
    parsed = [[match.groups() for text in own if (match := _PARTS.fullmatch(text))] for own in several]
    rows = [i for i, parts in enumerate(parsed) if parts]
    if rows:
        features = images.features[rows]
        concepts, concept = _numbered([[parts[0] for parts in parsed[i]] for i in rows])
        styles, style = _numbered([[parts[1] for parts in parsed[i]] for i in rows])
        grid = _unit_embeddings(clip, concepts, styles, settings.batch)
        asked.append(("concept of picture", features, grid.mean(dim=1), concept))
        asked.append(("style of picture", features, grid.mean(dim=0), style))
        about |= {"of concept and style": len(rows), "concepts": len(concepts), "styles": len(styles)}
    figures: dict[str, Estimate] = {}
    chance: dict[str, float] = {}
    for name, queries, candidates, right in asked:
        places = [k for k in PLACES if k < len(candidates)]
        bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
        found = recall(queries, candidates, right, places, **bootstrap) if places else {}
        figures |= {f"{name} @{k}": figure for k, figure in found.items()}
        chance |= {f"{name} @{k}": chance_of_recall(right, len(candidates), k) for k in places}
    made = quality(figures, pictures, images, extractor, settings, about)
    return replace(made, chance=chance, warnings=too_few("retrieval", len(several)))


def _numbered(names: Sequence[Sequence[str]]) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """Return the distinct names, sorted, and the pairs of an image and a name of it: indices [P] of each."""
    distinct = sorted({name for own in names for name in own})
    numbers = {name: i for i, name in enumerate(distinct)}
    pairs = torch.tensor([(i, numbers[name]) for i, own in enumerate(names) for name in dict.fromkeys(own)])
    return distinct, (pairs[:, 0], pairs[:, 1])


def _unit_embeddings(clip: Clip, concepts: Sequence[str], styles: Sequence[str], batch: int) -> Tensor:
    """Embed the caption of every concept in every style: unit vectors [C, S, D]."""
    prompts = [_CAPTION.format(concept, style) for concept in concepts for style in styles]
    return F.normalize(encode_texts(clip, prompts, batch), dim=1).view(len(concepts), len(styles), -1)

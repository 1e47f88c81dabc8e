"""The open_clip backend: its pretrained models, and the small models that the CLIP stage trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.clip import Text
from unclip.clip.identity import stored_identity
from unclip.clip.pooling import NORM_GROUPS, pooled_tower
from unclip.clip.preprocess import Preprocess
from unclip.clip.text_tower import causal_mask, heads, text_states, tokenize, tokenizer_with, vocabulary_size
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.clip.trained import PREFIX, WEIGHTS, read_config
from unclip.errors import CheckpointError
from unclip.files import find_files, load_weights
from unclip.nn.config import Architecture as Architecture

declare_missing_schemas()

import open_clip  # noqa: E402  (needs the schemas)
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

SUFFIXES = (".safetensors", ".bin", ".pt")  # suffixes of the weights that open_clip saves


def build(architecture: Architecture) -> open_clip.CLIP:
    """An untrained CLIP of that shape."""
    a = architecture
    model = open_clip.CLIP(
        embed_dim=a.embed,
        vision_cfg={
            "image_size": a.image_size,
            "patch_size": a.patch,
            "width": a.vision_width,
            "layers": 1 if a.vision_queries else a.vision_depth,
            "head_width": a.head,
        },
        text_cfg={
            "context_length": a.context,
            "vocab_size": vocabulary_size(a.merges),
            "width": a.text_width,
            "layers": a.text_depth,
            "heads": heads(a.text_width, a.head),
        },
    )
    if a.vision_queries:
        model.visual = pooled_tower(a)
    else:
        _normalise_in_groups(model.visual)
    return model


def _normalise_in_groups(module: nn.Module) -> None:
    """Replaces batch by group normalisation, so that an embedding depends on its own image only."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(math.gcd(child.num_features, NORM_GROUPS), child.num_features)
            norm.load_state_dict({"weight": child.weight, "bias": child.bias})  # some start at zero
            setattr(module, name, norm)
        else:
            _normalise_in_groups(child)


class OpenClip:
    """An open_clip model as a `Clip`."""

    reference: str | None = None

    def __init__(
        self,
        model: nn.Module,
        tokenizer: SimpleTokenizer,
        identity: str,
        preprocess: Preprocess,
        *,
        unit: bool = False,
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer, self.identity = tokenizer, identity
        self.preprocess = preprocess
        # The contrastive loss ignores the norm, so CLIPs trained here give embeddings of root mean square 1.
        # Embeddings of other CLIPs stay unscaled: published priors, as Karlo's, were trained on them.
        self.unit = unit
        # The text tower's parts are on the model itself in most open_clip models, in `.text` in the others.
        text: Any = model if hasattr(model, "token_embedding") else model.text
        self.text = text
        self.context: int = text.positional_embedding.shape[0]
        self.token_width: int = text.positional_embedding.shape[1]
        self.width: int = _projected_width(text.text_projection)

    @property
    def parameter(self) -> Tensor:
        """A parameter, for its device and dtype."""
        found: Tensor = self.text.positional_embedding
        return found

    def encode_text(self, captions: Sequence[str]) -> Text:
        """See `Clip`."""
        ids, mask = self.tokenize(captions)
        with torch.inference_mode():
            tokens, embed = text_states(self.text, ids.to(self.parameter.device), self.tokenizer.eot_token_id)
        return Text(
            list(captions), ids.to(tokens.device), mask.to(tokens.device), self._scaled(embed), tokens
        )

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions → ids and mask, [B, L], with L the longest caption's length."""
        return tokenize(self.tokenizer, captions, self.context)

    def truncate(self, caption: str) -> tuple[str, str]:
        """See `Clip`."""
        ids = self.tokenizer.encode(caption)
        room = self.context - 2
        return self.tokenizer.decode(ids[:room]).strip(), self.tokenizer.decode(ids[room:]).strip()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        with torch.inference_mode():
            pixels = self.preprocess(images.to(self.parameter.device)).to(self.parameter.dtype)
            features: Tensor = self.model.encode_image(pixels)
        return self._scaled(features)

    def _scaled(self, embed: Tensor) -> Tensor:
        return F.normalize(embed, dim=-1) * self.width**0.5 if self.unit else embed

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.model.to(device, dtype)
        return self


def load(name: str) -> OpenClip:
    """Loads an open_clip model: `ViT-L-14/openai` (model/tag), `hf-hub:owner/name`, or a saved folder.

    The identity of public weights is their name; that of a local folder or file is a hash of its weights.

    Raises:
        CheckpointError: no such model, no tag, unreadable weights, or another tokenizer than CLIP's.
    """
    model_name, tag, local = _source(name)
    try:
        model = open_clip.create_model(model_name, pretrained=tag)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip and the Hub raise many kinds
        raise CheckpointError(
            f"openclip:{name}: open_clip cannot load it ({' '.join(str(error).split())[:300]})"
        ) from None
    if not isinstance(tokenizer, SimpleTokenizer):
        raise CheckpointError(
            f"openclip:{name}: it has another tokenizer than CLIP's; load it through hf: instead"
        )
    identity = stored_identity("openclip", local, model.state_dict) if local else f"openclip:{name}"
    return OpenClip(model, tokenizer, identity, preprocess_of(model.visual, f"openclip:{name}"))


def preprocess_of(visual: Any, name: str) -> Preprocess:
    """The preprocessing that open_clip records on a vision tower.

    Raises:
        CheckpointError: it is for images that are not square.
    """
    config = open_clip.transform.PreprocessCfg(**visual.preprocess_cfg)
    size = config.size if isinstance(config.size, int) else config.size[0]
    if config.size not in (size, (size, size), [size, size]):
        raise CheckpointError(f"{name}: reads images of {config.size} pixels; only square ones are supported")
    interpolation: Any = config.interpolation if config.interpolation == "bilinear" else "bicubic"
    mode: Any = config.resize_mode
    mean, std = tuple(config.mean), tuple(config.std)
    return Preprocess(size, mean, std, mode, interpolation=interpolation, fill=config.fill_color)


def _source(name: str) -> tuple[str, str | None, list[Path]]:
    """open_clip's model name, the tag or file of the weights, and the local files that contain them."""
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") or (folder / "open_clip_config.json").is_file():
        return (
            f"local-dir:{folder}",
            None,
            [path for suffix in SUFFIXES for path in find_files(folder, f"*{suffix}")],
        )
    if name.startswith("hf-hub:"):
        return name, None, []
    model, _, tag = name.partition("/")
    if tag and Path(tag).is_file():
        return model, tag, [Path(tag)]
    tags = open_clip.list_pretrained_tags_by_model(model)
    if model in open_clip.list_models() and tag.lower().replace("-", "_") not in tags:
        problem = "names no weights, and without them it is a random network"
        if tag:
            problem = f"has no weights called {tag!r}"
        advice = "it has no tags"
        if tags:
            advice = f"give one of its tags, as openclip:{model}/{tags[0]}: {', '.join(tags)}"
        raise CheckpointError(f"openclip:{name}: {problem}; {advice}")
    return model, tag or None, []


def load_folder(folder: Path) -> OpenClip:
    """Loads both towers of a CLIP that the CLIP stage trained and saved."""
    architecture, identity = read_config(folder)
    with torch.device("meta"):
        model = build(architecture)
    model.attn_mask = causal_mask(architecture.context)
    load_weights(model, folder / WEIGHTS, prefix=PREFIX)
    tokenizer = tokenizer_with(architecture.merges, architecture.context)
    return OpenClip(model, tokenizer, identity, Preprocess(architecture.image_size), unit=True)


def _projected_width(projection: Any) -> int:
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])

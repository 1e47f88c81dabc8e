"""The transformers backend: `hf:openai/clip-vit-large-patch14`, or any folder saved by CLIPModel.

A model folder converted from diffusers keeps its CLIP in parts: `text_encoder`, `tokenizer`, perhaps `image_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unclip.clip import Text
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError, RequestError
from unclip.files import read_json

declare_missing_schemas()

import transformers  # noqa: E402  (needs the schemas)


class HfClip:
    """A transformers CLIP as a `Clip`.

    Args:
        model: a CLIPModel, or a CLIPTextModelWithProjection.
        vision: what reads pictures, a CLIPModel or a CLIPVisionModelWithProjection; None where nothing does.
    """

    def __init__(self, model: Any, vision: Any | None, tokenizer: Any, identity: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.vision = vision if vision is None else vision.eval().requires_grad_(False)
        self.tokenizer, self.identity = tokenizer, identity
        text = getattr(model.config, "text_config", model.config)
        self.context: int = text.max_position_embeddings
        self.token_width: int = text.hidden_size
        self.width: int = model.config.projection_dim

    @property
    def image_size(self) -> int:
        """See `Clip`.

        Raises:
            RequestError: nothing here reads pictures.
        """
        if self.vision is None:
            raise RequestError(f"{self.identity}: has no image encoder, it reads captions only")
        size: int = getattr(self.vision.config, "vision_config", self.vision.config).image_size
        return size

    def encode_text(self, captions: Sequence[str]) -> Text:
        """See `Clip`."""
        batch = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            out = self.model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            embed = self.model.text_projection(out.pooler_output)
        return Text(list(captions), batch["input_ids"], batch["attention_mask"].bool(), embed, out.last_hidden_state)

    def cut(self, caption: str) -> tuple[str, str]:
        """See `Clip`."""
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        room = self.context - 2
        return self.tokenizer.decode(ids[:room]).strip(), self.tokenizer.decode(ids[room:]).strip()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        from unclip.clip.openclip import MEAN, STD, normalised

        pixels = normalised(images, self.image_size, MEAN, STD)
        assert self.vision is not None
        pixels = pixels.to(self.vision.device, self.vision.dtype)
        with torch.inference_mode():
            out = self.vision.vision_model(pixel_values=pixels)
            embed: Tensor = self.vision.visual_projection(out.pooler_output)
        return embed

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.model.to(device=device, dtype=dtype)
        if self.vision is not None:
            self.vision.to(device=device, dtype=dtype)
        return self


def load(name: str) -> HfClip:
    """A Hub id or a local folder with a CLIPModel and its tokenizer."""
    try:
        model = transformers.CLIPModel.from_pretrained(name, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"hf:{name}: transformers cannot load it ({_short(error)})") from None
    return HfClip(model, model, tokenizer, f"hf:{name}")


def load_folder(folder: Path) -> HfClip:
    """The CLIP of a model folder that was converted from diffusers."""
    identity = read_json(folder / "config.json").get("identity")
    text = _tower(transformers.CLIPTextModelWithProjection, folder / "text_encoder")
    pictures = folder / "image_encoder"
    vision = _tower(transformers.CLIPVisionModelWithProjection, pictures) if pictures.is_dir() else None
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}/tokenizer: not a CLIP tokenizer ({_short(error)})") from None
    return HfClip(text, vision, tokenizer, str(identity))


def _tower(kind: Any, folder: Path) -> Any:
    try:
        model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # transformers and safetensors raise what they like
        raise CheckpointError(f"{folder}: transformers cannot load it ({_short(error)})") from None
    if info["missing_keys"]:  # it would go on with random numbers in their place
        raise CheckpointError(f"{folder}/model.safetensors: tensor {min(info['missing_keys'])} is missing")
    return model


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

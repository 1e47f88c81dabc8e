"""The transformers backend: `hf:openai/clip-vit-large-patch14`, or any folder saved by CLIPModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from unclip.clip import Text
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError

declare_missing_schemas()

import transformers  # noqa: E402  (needs the schemas)


class HfClip:
    """A transformers CLIPModel as a `Clip`."""

    def __init__(self, model: Any, tokenizer: Any, identity: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.identity = tokenizer, identity
        self.context: int = model.config.text_config.max_position_embeddings
        self.token_width: int = model.config.text_config.hidden_size
        self.width: int = model.config.projection_dim
        self.image_size: int = model.config.vision_config.image_size

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

        pixels = normalised(images, self.image_size, MEAN, STD).to(self.model.dtype)
        with torch.inference_mode():
            out = self.model.vision_model(pixel_values=pixels)
            embed: Tensor = self.model.visual_projection(out.pooler_output)
        return embed

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.model.to(device=device, dtype=dtype)
        return self


def load(name: str) -> HfClip:
    """A Hub id or a local folder with a CLIPModel and its tokenizer."""
    try:
        model = transformers.CLIPModel.from_pretrained(name, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"hf:{name}: transformers cannot load it ({' '.join(str(error).split())[:300]})"
        ) from None
    return HfClip(model, tokenizer, f"hf:{name}")

"""The transformers backend: `hf:` and a Hub id, or a folder saved by transformers' CLIPModel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unclip.clip import Text
from unclip.clip.identity import stored_identity
from unclip.clip.preprocess import Preprocess
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError
from unclip.files import read_weights

declare_missing_schemas()

import transformers  # noqa: E402  (needs the schemas)

log = logging.getLogger(__name__)


class HfClip:
    """A transformers CLIPModel as a `Clip`."""

    reference: str | None = None

    def __init__(self, model: Any, tokenizer: Any, identity: str, preprocess: Preprocess) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.identity = tokenizer, identity
        self.context: int = model.config.text_config.max_position_embeddings
        self.token_width: int = model.config.text_config.hidden_size
        self.width: int = model.config.projection_dim
        self.preprocess = preprocess

    def encode_text(self, captions: Sequence[str]) -> Text:
        """See `Clip`."""
        batch = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            out = self.model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            embed = self.model.text_projection(out.pooler_output)
        return Text(
            list(captions), batch["input_ids"], batch["attention_mask"].bool(), embed, out.last_hidden_state
        )

    def truncate(self, caption: str) -> tuple[str, str]:
        """See `Clip`."""
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        room = self.context - 2
        return self.tokenizer.decode(ids[:room]).strip(), self.tokenizer.decode(ids[room:]).strip()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        return encode_image(self.model, images, self.preprocess)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.model.to(device=device, dtype=dtype)
        return self


def encode_image(model: Any, images: Tensor, preprocess: Preprocess) -> Tensor:
    """Images [B, 3, H, W] in [−1, 1] → z_i [B, D], by a CLIPModel or CLIPVisionModelWithProjection."""
    with torch.inference_mode():
        pixels = preprocess(images.to(model.device)).to(model.dtype)
        out = model.vision_model(pixel_values=pixels)
        embed: Tensor = model.visual_projection(out.pooler_output)
    return embed


def load(name: str) -> HfClip:
    """Loads a CLIPModel and its tokenizer from a Hub id or a local folder.

    The identity of a Hub id is its name; that of a folder is a hash of its weights.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    try:
        model = transformers.CLIPModel.from_pretrained(name, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"hf:{name}: transformers cannot load it ({_short(error)})") from None
    vision: Any = model.config.vision_config
    identity = _folder_identity(Path(name)) if Path(name).is_dir() else f"hf:{name}"
    return HfClip(model, tokenizer, identity, read_preprocess(name, vision.image_size))


def read_preprocess(name: str | Path, size: int) -> Preprocess:
    """The preprocessing in the image processor's config of a folder or Hub id; OpenAI's if it has none.

    Args:
        size: side in pixels of the image tower's input.

    Raises:
        CheckpointError: the config is damaged, unsupported, or for another image size than the model's.
    """
    try:
        tree, _ = transformers.CLIPImageProcessor.get_image_processor_dict(str(name))
    except OSError as error:
        configs = ("preprocessor_config.json", "processor_config.json")
        if any((Path(name) / file).is_file() for file in configs):
            raise CheckpointError(
                f"{name}: its preprocessor_config.json cannot be read ({_short(error)})"
            ) from None
        log.warning(
            "%s: no preprocessor_config.json; pictures are prepared as OpenAI's CLIP does, at %d px",
            name,
            size,
        )
        return Preprocess(size, rounds_crop=False)
    processor = transformers.CLIPImageProcessor.from_dict(tree)
    wanted, crop, rescale = processor.size, processor.crop_size, processor.rescale_factor
    sides = crop if processor.do_center_crop else wanted
    filters: dict[int, Any] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    if not processor.do_resize or not processor.do_rescale or abs(rescale * 255 - 1) > 1e-3:
        wrong = "does not resize, or not rescale by 1/255"
    elif int(processor.resample) not in filters:
        wrong = f"resamples by {processor.resample}; bilinear and bicubic are supported"
    elif (sides.height, sides.width) != (size, size):
        wrong = (
            f"makes pictures of {sides.height} × {sides.width} pixels, but the model reads {size} × {size}"
        )
    elif wanted.shortest_edge is None and (wanted.height, wanted.width) != (size, size):
        wrong = f"resizes to {wanted}; a shortest_edge, or a height and width of {size}, are supported"
    else:
        mean, std = [0.0] * 3, [1.0] * 3
        if processor.do_normalize:
            mean, std = processor.image_mean, processor.image_std
        return Preprocess(
            size,
            tuple(mean),
            tuple(std),
            "squash" if wanted.shortest_edge is None else "shortest",
            wanted.shortest_edge,
            filters[int(processor.resample)],
            rounds_crop=False,
        )
    raise CheckpointError(f"{name}: its image processor {wrong}")


def _folder_identity(folder: Path) -> str:
    whole = folder / "model.safetensors"
    paths = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))

    def state() -> dict[str, Tensor]:
        found = {name: tensor for path in paths for name, tensor in read_weights(path).items()}
        # position_ids are not weights (0, 1, 2, …); some versions save them.
        return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}

    return stored_identity("hf", paths, state)


def load_image_encoder(folder: Path) -> Any:
    """Loads a CLIPVisionModelWithProjection.

    Raises:
        CheckpointError: transformers cannot load it, or a tensor is missing.
    """
    kind: Any = transformers.CLIPVisionModelWithProjection
    try:
        model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # transformers and safetensors raise many kinds
        raise CheckpointError(f"{folder}: transformers cannot load it ({_short(error)})") from None
    if info["missing_keys"]:  # transformers would initialise them at random
        raise CheckpointError(f"{folder}/model.safetensors: tensor {min(info['missing_keys'])} is missing")
    return model.eval().requires_grad_(False)


def save_tokenizer(source: Path, path: Path) -> None:
    """Converts the folder of a CLIPTokenizer of any transformers version to one tokenizer.json."""
    read_tokenizer(source)[0].save(str(path))


def read_tokenizer(source: Path) -> tuple[Any, int]:
    """Reads a CLIPTokenizer of any transformers version; returns a `tokenizers.Tokenizer` and its padding id.

    Raises:
        CheckpointError: not one.
    """
    library: Any = transformers  # untyped: newer versions have CLIPTokenizerFast as an alias only
    try:
        found = library.CLIPTokenizerFast.from_pretrained(source)
        return found.backend_tokenizer, int(found.pad_token_id)
    except Exception as error:
        raise CheckpointError(f"{source}: not a CLIP tokenizer ({_short(error)})") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

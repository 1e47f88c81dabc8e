"""The base of decoders over latents: z_i → latent → picture, with diffusers' U-Net and autoencoder.

Both networks are built from their configs, which the stage's config holds, so that a model folder needs no
other files. diffusers is imported only when such a stage is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.inpainting import Known
from unclip.errors import CheckpointError
from unclip.stages.decoder_base import BaseDecoder
from unclip.stages.latent_configs import AUTOENCODERS
from unclip.stages.latent_configs import LatentDecoderConfig as LatentDecoderConfig

TILE = 128  # side of a tile in latents: pictures up to 1024 × 1024 pixels are decoded whole
OVERLAP = 32  # latents that neighbouring tiles share, over which they are blended


class LatentDecoder(BaseDecoder):
    """A decoder whose diffusion is over the latents of an autoencoder.

    Subclasses define `Network`, which calls diffusers' U-Net as every network is called here,
    `network(x, t, **cond)`, and build its conditions in `sample` and `forward`.

    Attributes:
        Network: class of the denoiser, built from a UNet2DConditionModel.
        cell: side in pixels of one latent.
        channels: channels of a latent.
    """

    Network: ClassVar[type[nn.Module]]
    parts: ClassVar[tuple[str, ...]] = ("network", "autoencoder")
    autoencoder: Any  # of diffusers
    walked = "network."
    flexible = True  # of the two models that there are, which were trained at several sizes

    def __init__(self, config: LatentDecoderConfig) -> None:
        super().__init__(config)
        self.size, self.embed, self.cell, self.unit = config.size, config.embed, config.cell, config.unit
        self.network = self.Network(built("UNet2DConditionModel", config.unet))
        self.autoencoder = built(str(config.autoencoder.get("_class_name")), config.autoencoder)
        self.channels, self.scale = int(self.autoencoder.config.latent_channels), config.scale

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        width, height = size
        return self.channels, height // self.cell, width // self.cell

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [−1, 1] → latents [B, C, H / cell, W / cell]; the mean of a distribution."""

        def encode(picture: Tensor) -> Tensor:
            found = self.autoencoder.encode(picture)
            latent: Tensor = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
            return latent

        return self._one_by_one(encode, images) * self.scale

    def render(self, x0: Tensor) -> Tensor:
        """Latents [B, C, h, w] → pictures [B, 3, h · cell, w · cell], in overlapping tiles where large."""
        # A VQ model decodes the latents as they are: the walk does not end in codes (Kandinsky).
        more = {"force_not_quantize": True} if hasattr(self.autoencoder, "quantize") else {}

        def decode(latents: Tensor) -> Tensor:
            picture: Tensor = self.autoencoder.decode(latents, **more).sample
            return picture

        return self._one_by_one(lambda latents: tiled(decode, latents, self.cell), x0 / self.scale)

    def encode_known(self, known: Known) -> Known:
        """The known latents: those whose pixels are all known."""
        unknown = (~known.keep).float().reshape(-1, 1, *known.keep.shape[-2:])
        return Known(self.encode(known.x0), F.max_pool2d(unknown, self.cell) == 0)

    def _one_by_one(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """The autoencoder's function of each row [1, …]: a batch is no faster and needs more memory."""
        with self.in_place("autoencoder."):
            weight = next(self.autoencoder.parameters())
            # Results are at least float32, as x is in a walk.
            dtype = torch.promote_types(weight.dtype, torch.float32)
            rows = batch.to(weight).split(1)
            return torch.cat([function(row).to(dtype) for row in rows])


def built(name: str, config: dict[str, Any]) -> nn.Module:
    """A module of diffusers from its config, with random weights.

    Raises:
        CheckpointError: diffusers is not installed, or cannot build that.
    """
    if name not in ("UNet2DConditionModel", *AUTOENCODERS):
        raise CheckpointError(f"autoencoder {name}: there are {' and '.join(AUTOENCODERS)}")
    try:
        with torch.device("cpu"):  # on the meta device, on which stages are built, the import fails
            declare_missing_schemas()
            from diffusers import models

            kind: Any = getattr(models, name)
    except ImportError:
        raise CheckpointError(
            'a decoder over latents needs diffusers: pip install "unclip[latent]"'
        ) from None
    try:
        module: nn.Module = kind.from_config(config)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"diffusers builds no {name} from its config ({error})") from None
    return module


def tiled(decode: Callable[[Tensor], Tensor], latents: Tensor, cell: int) -> Tensor:
    """Decode latents [B, C, h, w] in overlapping tiles, blended linearly where they overlap.

    Latents of up to TILE × TILE are decoded whole.
    """
    height, width = latents.shape[-2:]
    if height * width <= TILE * TILE:
        return decode(latents)
    total = weight = None
    for top in _starts(height):
        for left in _starts(width):
            tile = latents[..., top : top + TILE, left : left + TILE]
            picture = decode(tile)
            ramp = _ramp(tile.shape[-2], top, height, cell)[:, None] * _ramp(
                tile.shape[-1], left, width, cell
            )
            ramp = ramp.to(picture)
            if total is None or weight is None:
                total = picture.new_zeros(*picture.shape[:-2], height * cell, width * cell)
                weight = total.new_zeros(total.shape[-2:])
            where = (
                ...,
                slice(top * cell, top * cell + picture.shape[-2]),
                slice(left * cell, left * cell + picture.shape[-1]),
            )
            total[where] += picture * ramp
            weight[where] += ramp
    assert total is not None and weight is not None
    return total / weight


def _starts(length: int) -> list[int]:
    """The first latent of each tile along an axis; the tiles are spread evenly."""
    if length <= TILE:
        return [0]
    count = -(-(length - OVERLAP) // (TILE - OVERLAP))
    return [round(i * (length - TILE) / (count - 1)) for i in range(count)]


def _ramp(tile: int, start: int, length: int, cell: int) -> Tensor:
    """The weight of a tile's pixels along an axis: it rises and falls linearly at borders to other tiles."""
    pixels = torch.arange(tile * cell, dtype=torch.float32) + 0.5
    rise = pixels if start else torch.full_like(pixels, OVERLAP * cell)
    fall = pixels.flip(0) if start + tile < length else torch.full_like(pixels, OVERLAP * cell)
    return torch.minimum(rise, fall).clamp(max=OVERLAP * cell) / (OVERLAP * cell)

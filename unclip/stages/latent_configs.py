"""Configuration of the decoders over latents. This module does not import torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unclip.config import WrongValue
from unclip.diffusion.config import DiffusionConfig
from unclip.nn.config import ClipTextConfig
from unclip.stages.config import DiffusionStageConfig, SamplingConfig

AUTOENCODERS = ("VQModel", "AutoencoderKL")  # diffusers' classes that a decoder over latents may have


class LatentDecoderConfig(DiffusionStageConfig):
    """The config fields of every decoder over latents, whose networks are diffusers' modules.

    Attributes:
        size: side of the square pictures that the network was trained on, in pixels.
        embed: width D of CLIP's embeddings.
        unet: the config of a UNet2DConditionModel.
        autoencoder: the config of a VQModel or an AutoencoderKL, with its `_class_name`.
        scale: factor from the autoencoder's latents to those of the diffusion.
    """

    size: int = Field(512, ge=1)
    embed: int = Field(ge=1)
    unet: dict[str, Any]
    autoencoder: dict[str, Any]
    scale: float = Field(1.0, gt=0)
    diffusion: DiffusionConfig = DiffusionConfig(schedule="scaled_linear", clamp=None)
    sampling: SamplingConfig = SamplingConfig(steps=25, sampler="dpmpp_2m")

    def check_training(self) -> None:
        super().check_training()
        if self.size % self.unit:
            raise WrongValue("size", f"{self.size} must be a multiple of {self.unit}")

    @property
    def cell(self) -> int:
        """Side in pixels of one latent."""
        return int(2 ** (len(self.autoencoder.get("block_out_channels", ())) - 1))

    @property
    def unit(self) -> int:
        """The sides of the pictures in pixels are multiples of this number."""
        return int(self.cell * 2 ** (len(self.unet.get("block_out_channels", ())) - 1))


class KandinskyDecoderConfig(LatentDecoderConfig):
    """Configuration of Kandinsky 2.2's decoder.

    Attributes:
        guided: whether the null embedding of guidance is known; a decoder that was converted without the image
            encoder of its prior's repository has none.
        embed_drop: share of z_i replaced by the null embedding in training, for classifier-free guidance.
    """

    kind: str = "decoder_kandinsky"
    guided: bool = True
    embed_drop: float = Field(0.1, ge=0, le=1)
    diffusion: DiffusionConfig = DiffusionConfig(
        schedule="linear", betas=(0.00085, 0.012), variance="learned", objective="hybrid", clamp=None
    )
    sampling: SamplingConfig = SamplingConfig(steps=25, sampler="dpmpp_2m", guidance=4.0)

    @property
    def inpaint(self) -> bool:
        """Whether the network also reads the known latents and their mask."""
        return bool(self.unet.get("in_channels") == 2 * int(self.autoencoder.get("latent_channels", 0)) + 1)


class CaptionEncoderConfig(ClipTextConfig):
    """Shape of a decoder's own frozen text encoder.

    Attributes:
        padding: id of the token that fills a caption up to `context`.
    """

    padding: int = Field(ge=0)


class StableDecoderConfig(LatentDecoderConfig):
    """Configuration of Stable unCLIP's decoder.

    Attributes:
        captions: its text encoder.
        noise_times: number of timesteps of the cosine schedule by which z_i is noised; `sampling.noise_level`
            is a share of them.
        embed_drop: share of z_i, with their noise levels, replaced by zeros in training, for classifier-free
            guidance.
        text_drop: share of the captions replaced by the empty one in training.
    """

    kind: str = "decoder_stable"
    size: int = Field(768, ge=1)
    captions: CaptionEncoderConfig
    noise_times: int = Field(1000, ge=2)
    embed_drop: float = Field(0.1, ge=0, le=1)
    text_drop: float = Field(0.1, ge=0, le=1)
    diffusion: DiffusionConfig = DiffusionConfig(
        schedule="scaled_linear", predict="v", spacing="leading", offset=1, clamp=None
    )
    sampling: SamplingConfig = SamplingConfig(steps=20, sampler="dpmpp_2m", guidance=10.0)

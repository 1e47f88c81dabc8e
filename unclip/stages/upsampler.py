"""The upsamplers: a picture → the same picture four times as large (Ramesh et al. 2022, §2.1 and appendix
C).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from unclip.diffusion.diffusion import DiffusionConfig
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import ConfigError
from unclip.images import resize
from unclip.nn.unet import UNet, UNetConfig
from unclip.stages.base import Batch, DiffusionStage, DiffusionStageConfig, SamplingConfig
from unclip.stages.degradation import Kind, degrade


class UpsamplerConfig(DiffusionStageConfig):
    """Configuration of an upsampler.

    Attributes:
        size: side of the output in pixels.
        factor: ratio of the output's side to the input's.
        crop_fraction: side of the training crops as a share of `size`; the network has convolutions only, so
            what it learns on crops holds for whole pictures.
        unet: shape of the network.
        degradation: how the low-resolution input is degraded in training.
        residual: predict what to add to the resized input instead of the whole x0, so that an untrained
            network equals bicubic resampling. Small networks need it. For x0-prediction only.
        catmull_rom: resize the input by Catmull–Rom splines without clamping, as Karlo does; otherwise by
            torch's bicubic kernel, clamped to [−1, 1].
        expert: use a second U-Net for the last step, at t = 0 (Karlo, which fine-tuned it adversarially).
    """

    kind: str = "upsampler"
    size: int
    factor: int = 4
    crop_fraction: float = Field(0.25, gt=0, le=1)
    unet: UNetConfig
    degradation: Kind = "blur"
    residual: bool = False
    catmull_rom: bool = False
    expert: bool = False
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig(steps=27, sampler="ddim")

    @model_validator(mode="after")
    def _residual_of_x0(self) -> Self:
        if self.residual and (self.diffusion.predict != "x0" or self.diffusion.variance == "learned"):
            raise ValueError("residual needs diffusion.predict x0 and a fixed variance")
        return self


class UpsamplerNetwork(nn.Module):
    """The noised picture and the resized input, side by side in channels."""

    def __init__(self, config: UpsamplerConfig, outputs: int) -> None:
        super().__init__()
        self.residual = config.residual
        self.unet = UNet(config.unet, 6, outputs)
        self.expert = UNet(config.unet, 6, outputs) if config.expert else None

    def forward(self, x: Tensor, t: Tensor, *, low: Tensor, seeds: Tensor | None = None) -> Tensor:
        """x [B, 3, H, W]; t, seeds [B]; low [B, 3, H, W], already resized."""
        dtype = self.unet.conv_in.weight.dtype
        # While sampling, all pictures of a batch are at one time.
        unet = self.expert if self.expert is not None and t[0] == 0 else self.unet
        out: Tensor = unet(torch.cat([x, low], dim=1).to(dtype), t, seeds=seeds)
        return out + low.to(dtype) if self.residual else out


class Upsampler(DiffusionStage):
    """low → high. Unconditional on text, hence without guidance."""

    role = "upsampler"
    Config = UpsamplerConfig
    size: int
    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__(config)
        self.size, self.factor, self.degradation = config.size, config.factor, config.degradation
        self.crop_fraction, self.catmull_rom, self.expert = (
            config.crop_fraction,
            config.catmull_rom,
            config.expert,
        )
        self.network = UpsamplerNetwork(config, outputs=6 if self.diffusion.learned else 3)

    @property
    def crop(self) -> int:
        return round(self.size * self.crop_fraction)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None
        if self.expert:
            raise ConfigError(
                "stage.expert: an upsampler with a last-step expert can be sampled only; train without one"
            )
        side = batch.image.shape[-1]
        rng = batch.rng(batch.image)
        low = degrade(
            resize(batch.image, side // self.factor), self.degradation, rng.integers(2**62).tolist()
        )
        cond = {**self.condition(low, side), **batch.dropout()}
        return self.diffusion.loss(self.network, batch.image, cond, *self._draw(rng, batch.image))

    def sample(
        self,
        low: Tensor,
        options: SamplingConfig,
        noise: SeededNoise,
        *,
        size: int | None = None,
        trajectory: Trajectory = FROM_NOISE,
    ) -> Iterator[Step]:
        """Walks to pictures [B, 3, size, size], given smaller ones [B, 3, h, h].

        Args:
            size: side of the result, if not the stage's own: the network is convolution-only.
            trajectory: start, direction and known part of the walk. Default: from noise.
        """
        cond = self.condition(low, size or self.size)
        return self.walk(tuple(cond["low"].shape), cond, None, options, noise, trajectory)

    def condition(self, low: Tensor, side: int) -> dict[str, Tensor]:
        """The network's condition: the smaller pictures, resized to that side."""
        return {"low": self._enlarged(low, side)}

    def _enlarged(self, low: Tensor, side: int) -> Tensor:
        if not self.catmull_rom:
            return resize(low, side)
        # torch's antialiased kernel is PIL's (a = −0.5), its other one is not (a = −0.75).
        return F.interpolate(low, (side, side), mode="bicubic", antialias=True)


STAGE = Upsampler

"""The upsamplers: an image → the same image at 4× its side (Ramesh et al. 2022, §2.1 and appendix C)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond, Denoise, DiffusionConfig, Prediction
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import ConfigError
from unclip.images import resize
from unclip.nn.unet import UNet, UNetConfig
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.degradation import Kind, degrade
from unclip.stages.diffusion import DiffusionStage, DiffusionStageConfig


class UpsamplerConfig(DiffusionStageConfig):
    """Configuration of an upsampler.

    Attributes:
        size: side of the output in pixels.
        factor: ratio of the output's side to the input's.
        crop_fraction: side of the training crops as a share of `size`; the network has convolutions only, so
            it generalises from crops to whole images.
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
    """A U-Net over the noised image and the resized input, concatenated in channels."""

    def __init__(self, config: UpsamplerConfig, outputs: int) -> None:
        super().__init__()
        self.residual = config.residual
        self.unet = UNet(config.unet, 6, outputs)
        self.expert = UNet(config.unet, 6, outputs) if config.expert else None

    def forward(
        self, x: Tensor, t: Tensor, *, low: Tensor, seeds: Tensor | None = None, last_step: bool = False
    ) -> Tensor:
        """x [B, 3, H, W]; t, seeds [B]; low [B, 3, H, W], already resized; `last_step` uses the expert."""
        dtype = self.unet.conv_in.weight.dtype
        unet = self.expert if self.expert is not None and last_step else self.unet
        out: Tensor = unet(torch.cat([x, low], dim=1).to(dtype), t, seeds=seeds)
        return out + low.to(dtype) if self.residual else out


class Upsampler(DiffusionStage):
    """A low-resolution image → a high-resolution one. It reads no text, so it has no guidance."""

    role = "upsampler"
    Config = UpsamplerConfig
    size: int
    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__(config)
        self.size, self.factor, self.degradation = config.size, config.factor, config.degradation
        self.crop_fraction, self.catmull_rom = config.crop_fraction, config.catmull_rom
        self.expert = config.expert
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
        """Samples images [B, 3, size, size] from low-resolution ones [B, 3, h, h].

        Args:
            size: side of the result; the network is convolutional, so any side works. Default: the stage's.
            trajectory: start, direction and known part of the walk. Default: from noise.
        """
        cond = self.condition(low, size or self.size)
        return self.walk(tuple(cond["low"].shape), cond, None, options, noise, trajectory)

    def denoiser(self, cond: Cond, null: Cond | None, options: SamplingConfig) -> Denoise:
        first = super().denoiser(cond, null, options)
        if not self.expert:
            return first
        last = self.diffusion.denoiser(partial(self.network, last_step=True), cond)

        def denoise(x: Tensor, t: int) -> Prediction:  # t is an int on the host: no GPU synchronisation
            return last(x, t) if t == 0 else first(x, t)

        return denoise

    def condition(self, low: Tensor, side: int) -> dict[str, Tensor]:
        """The network's condition: the low-resolution images, resized to the given side."""
        if not self.catmull_rom:
            return {"low": resize(low, side)}
        # torch's antialiased kernel has a = −0.5, as PIL's and Catmull–Rom's; its plain one has a = −0.75.
        return {"low": F.interpolate(low, (side, side), mode="bicubic", antialias=True)}


STAGE = Upsampler

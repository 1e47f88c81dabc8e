"""The upsamplers: an image → the same image at 4× its side (Ramesh et al. 2022, §2.1 and appendix C)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond, Denoise, Prediction
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import ConfigError
from unclip.images import resize
from unclip.nn.unet import UNet
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.configs import UpsamplerConfig as UpsamplerConfig
from unclip.stages.degradation import degrade
from unclip.stages.diffusion import DiffusionStage


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
        self._crop, self.catmull_rom = config.crop, config.catmull_rom
        self.expert = config.expert
        self.network = UpsamplerNetwork(config, outputs=6 if self.diffusion.learned else 3)

    @property
    def crop(self) -> int:
        return self._crop

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

"""The upsamplers: an image → the same image at 4× its side (Ramesh et al. 2022, §2.1 and appendix C)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond, Denoise, Prediction
from unclip.diffusion.gaussian import broadcast_to
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import ConfigError, RequestError
from unclip.images import Sides, height_width, resize
from unclip.nn.layers import TimeEmbedding, zero_init
from unclip.nn.unet import UNet
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.configs import UpsamplerConfig as UpsamplerConfig
from unclip.stages.degradation import degrade
from unclip.stages.diffusion import DiffusionStage

LEVELS = 1000  # the noise level in the units of timesteps, for its sinusoidal embedding


class UpsamplerNetwork(nn.Module):
    """A U-Net over the noised image and the resized input, concatenated in channels."""

    def __init__(self, config: UpsamplerConfig, outputs: int) -> None:
        super().__init__()
        self.residual = config.residual
        self.unet = UNet(config.unet, 6, outputs)
        self.expert = UNet(config.unet, 6, outputs) if config.expert else None
        self.level = None
        if config.noise_level:
            self.level = TimeEmbedding(config.unet.channels, self.unet.embed_width)
            # Zero, so that fine-tuning starts from the upsampler without augmentation.
            zero_init(self.level.linear_2)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        low: Tensor,
        level: Tensor | None = None,
        seeds: Tensor | None = None,
        last_step: bool = False,
    ) -> Tensor:
        """Predicts from the noised images.

        Args:
            x: [B, 3, H, W]. t, seeds: [B].
            low: the input, already resized and noised, [B, 3, H, W].
            level: noise level of the input in [0, 1], [B]; for networks with augmentation.
            last_step: use the expert.
        """
        dtype = self.unet.conv_in.weight.dtype
        unet = self.expert if self.expert is not None and last_step else self.unet
        embed = self.level(LEVELS * level) if self.level is not None and level is not None else None
        out: Tensor = unet(torch.cat([x, low], dim=1).to(dtype), t, embed, seeds=seeds)
        return out + low.to(dtype) if self.residual else out


class Upsampler(DiffusionStage):
    """A low-resolution image → a high-resolution one. It reads no text, so it has no guidance."""

    role = "upsampler"
    Config = UpsamplerConfig
    size: int
    unit: int  # the width and height of its images in pixels are multiples of this number
    needs: frozenset[str] = frozenset({"image"})  # type: ignore[misc]  # of the instance, by its config

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__(config)
        self.size, self.factor, self.degradation = config.size, config.factor, config.degradation
        self.unit = config.unet.unit
        self._crop, self.catmull_rom = config.crop, config.catmull_rom
        self.expert, self.noise_level, self.redrawn = config.expert, config.noise_level, config.redrawn
        if self.redrawn:
            self.needs = frozenset({"image", "low"})
        self.network = UpsamplerNetwork(config, outputs=6 if self.diffusion.learned else 3)

    @property
    def crop(self) -> int:
        return self._crop

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapts to `stage.noise_level` and `unet.refine`: what the other lacks starts as the identity.

        A last-step expert that this stage lacks is left out.
        """
        optional = ("network.level.", "network.unet.refine.", "network.expert.")
        own = {key: tensor for key, tensor in self.state_dict().items() if key.startswith(optional)}
        theirs = {k: tensor for k, tensor in state.items() if k in own or not k.startswith(optional)}
        return {**own, **theirs}

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None
        if self.expert:
            raise ConfigError(
                "stage.expert: an upsampler with a last-step expert can be sampled only; train without one"
            )
        side = batch.image.shape[-1]
        rng = batch.rng(batch.image)
        low = self.reduced(batch.image)
        low = degrade(low, self.degradation, rng.integers(2**62).tolist())
        if self.redrawn:
            assert batch.low is not None
            low = torch.where((rng.uniform() < self.redrawn)[:, None, None, None], batch.low, low)
        cond = self.condition(low, side)
        if self.noise_level:
            level = self.noise_level * rng.uniform()
            cond |= {"low": add_noise(cond["low"], level, rng.normal(cond["low"])), "level": level}
        return self.loss(batch, rng, batch.image, cond)

    def reduced(self, image: Tensor) -> Tensor:
        """The clean low-resolution input [B, 3, h, h] of images."""
        return resize(image, image.shape[-1] // self.factor)

    def sample(
        self,
        low: Tensor,
        options: SamplingConfig,
        noise: SeededNoise,
        *,
        size: Sides | None = None,
        trajectory: Trajectory = FROM_NOISE,
    ) -> Iterator[Step]:
        """Samples images [B, 3, H, W] from low-resolution ones [B, 3, h, w].

        Args:
            size: of the result. The network is convolutional, so any multiples of `unit` work. Default: the
                stage's square.
            trajectory: start, direction and known part of the walk. Default: from noise.

        Raises:
            RequestError: as `check_options`.
        """
        self.check_options(options)
        cond = self.condition(low, size or self.size)
        if self.noise_level:
            level = torch.full((len(low),), options.noise_level, device=self.device)
            drawn = noise(cond["low"]) if options.noise_level else torch.zeros_like(cond["low"])
            cond |= {"low": add_noise(cond["low"], level, drawn), "level": level}
        return self.walk(tuple(cond["low"].shape), cond, None, options, noise, trajectory)

    def check_options(self, options: SamplingConfig) -> None:
        """Checks what an upsampler alone cannot do.

        Raises:
            RequestError: guidance, or a noise level above those of its training.
        """
        super().check_options(options)
        if options.guidance != 1:
            raise RequestError(
                f"upsampler-{self.size}: has no condition to guide by; its guidance is always 1"
            )
        if options.noise_level > self.noise_level:
            raise RequestError(
                f"upsampler-{self.size}: noise_level {options.noise_level:g} is above {self.noise_level:g}, "
                "the largest that it was trained with"
            )

    def denoiser(self, cond: Cond, null: Cond | None, options: SamplingConfig) -> Denoise:
        first = super().denoiser(cond, null, options)
        if not self.expert:
            return first
        last = self.diffusion.denoiser(partial(self.network, last_step=True), cond)

        def denoise(x: Tensor, t: int) -> Prediction:  # t is an int on the host: no GPU synchronisation
            return last(x, t) if t == 0 else first(x, t)

        return denoise

    def condition(self, low: Tensor, size: Sides) -> dict[str, Tensor]:
        """The network's condition: the low-resolution images, resized to the given size."""
        if not self.catmull_rom:
            return {"low": resize(low, size)}
        # torch's antialiased kernel has a = −0.5, as PIL's and Catmull–Rom's; its plain one has a = −0.75.
        return {"low": F.interpolate(low, height_width(size), mode="bicubic", antialias=True)}


def add_noise(x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """√(1 − s²) x + s ε of images x [B, ...] at the noise levels s [B]."""
    s = broadcast_to(level, x)
    return (1 - s.square()).sqrt() * x + s * noise


STAGE = Upsampler

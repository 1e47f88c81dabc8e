"""Pixel-space diffusion models of small images, unconditional or class-conditional.

Sohl-Dickstein et al. 2015 learn mean and covariance by the variational bound; Ho et al. 2020 predict the
noise with a fixed covariance; Song et al. 2021 do the same in continuous time. The configs are in
`configs/{sohl-dickstein,ddpm,score-sde}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond
from unclip.diffusion.flow import START
from unclip.diffusion.gaussian import broadcast_to
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.sde import VP, Score, score_matching
from unclip.errors import DataError, RequestError
from unclip.nn.transformer import embedding
from unclip.nn.unet import UNet
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.configs import PixelsConfig as PixelsConfig
from unclip.stages.diffusion import DiffusionStage


class PixelsNetwork(nn.Module):
    """The U-Net with a class embedding, added to the time embedding; the last row is for no class."""

    def __init__(self, config: PixelsConfig, outputs: int) -> None:
        super().__init__()
        self.unet = UNet(config.unet, config.channels, outputs)
        self.label = embedding(config.classes + 1, self.unet.embed_width) if config.classes else None

    def forward(
        self, x: Tensor, t: Tensor, *, label: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """x [B, C, H, W]; t, seeds [B]; label int64 [B]."""
        embed = None if self.label is None or label is None else self.label(label)
        out: Tensor = self.unet(x.to(self.unet.conv_in.weight.dtype), t, embed, seeds=seeds)
        return out


class Pixels(DiffusionStage):
    """A class, or nothing → a small image."""

    Config = PixelsConfig
    size: int
    needs: ClassVar[frozenset[str]] = frozenset({"image", "label"})

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__(config)
        self.size, self.channels, self.classes = config.size, config.channels, config.classes
        self.label_drop, self.continuous = config.label_drop, config.continuous
        self.flips, self.dequantise = config.flips, config.dequantise
        self.network = PixelsNetwork(config, outputs=config.channels * (2 if self.diffusion.learned else 1))

    def forward(self, batch: Batch) -> Tensor:
        x0 = self.data(batch)
        rng = batch.rng(x0)
        cond = {**self.condition(batch.label), **batch.dropout()}
        if "label" in cond:
            kept = rng.uniform() >= self.label_drop
            cond["label"] = torch.where(kept, cond["label"], self.classes)
        if self.flips:
            x0 = torch.where(broadcast_to(rng.uniform() < 0.5, x0, torch.bool), x0.flip(-1), x0)
        if self.dequantise:
            x0 = x0 + self.spacing * (torch.special.ndtr(rng.normal(x0)) - 0.5)
        if self.continuous:
            t = START + (1 - START) * rng.uniform()
            return score_matching(VP(), self._continuous_network, x0, cond, t, rng.normal(x0))
        return self.diffusion.loss(self.network, x0, cond, *self._draw(rng, x0))

    @property
    def spacing(self) -> float:
        """Distance between neighbouring pixel levels in [−1, 1]."""
        return 2 / (self.diffusion.config.levels - 1)

    def data(self, batch: Batch) -> Tensor:
        """The batch's images as training data [B, channels, size, size], rounded to the data's levels."""
        assert batch.image is not None
        image = batch.image if self.channels == 3 else batch.image.mean(dim=1, keepdim=True)
        return ((image + 1) / self.spacing).round() * self.spacing - 1

    def condition(self, label: Tensor | None) -> dict[str, Tensor]:
        """The network's condition for class numbers [B] on the CPU; empty for an unconditional model.

        Raises:
            DataError: the labels are missing or out of range.
        """
        if not self.classes:
            return {}
        if label is None:
            raise DataError(
                "the stage has classes, and the shards have no labels; `unclip data labelled` writes such"
            )
        if int(label.max()) >= self.classes:
            raise DataError(f"class {int(label.max())}: the stage has {self.classes}, from 0 on")
        return {"label": label.to(self.device)}

    def sample(self, label: Tensor | None, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Samples images [B, channels, size, size].

        Args:
            label: class numbers, int64 [B] on the CPU; None samples unconditionally.
            noise: for B images.

        Raises:
            RequestError: a class or guidance, for a model without classes.
        """
        count = len(noise.seeds)
        if not self.classes and (label is not None or options.guidance != 1):
            raise RequestError(
                "the model was trained without classes: it can neither be asked for one nor be guided"
            )
        null: Cond | None = (
            {"label": torch.full((count,), self.classes, device=self.device)} if self.classes else None
        )
        cond = null or {} if label is None else self.condition(label)
        return self.walk((count, self.channels, self.size, self.size), cond, null, options, noise)

    def score(self, label: Tensor | None) -> Score:
        """The score ∇ log p_t(x) of the VP SDE, for x [B, channels, size, size], classes [B] and 0 < t ≤ 1.

        Raises:
            RequestError: the diffusion is not a discretisation of that SDE.
        """
        config = self.diffusion.config
        if config.schedule != "linear":
            raise RequestError(
                f"the {config.schedule} schedule is not VP's: no SDE, and no likelihood by its ODE"
            )
        cond, sde = self.condition(label), VP()

        def score(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (broadcast_to(value, x) for value in sde.marginal(t))
            output = self._continuous_network(x, t, **cond)
            if self.diffusion.learned:
                output = output.chunk(2, dim=1)[0]
            eps = {"eps": output, "x0": (x - alpha * output) / sigma, "v": sigma * x + alpha * output}[
                config.predict
            ]
            return -eps / sigma

        return score

    def _continuous_network(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The network at continuous times in (0, 1]: timestep i is t = (i + 1) / T; smaller t count as 0."""
        out: Tensor = self.network(x, (t * self.diffusion.schedule.times - 1).clamp(min=0).float(), **cond)
        return out

    def draw(
        self, labels: Sequence[int] | None, seeds: Sequence[int], options: SamplingConfig, *, batch: int = 64
    ) -> Iterator[Tensor]:
        """Samples image i with labels[i] and seeds[i]; yields batches [B, C, size, size] in [−1, 1]."""
        for start in range(0, len(seeds), batch):
            part = slice(start, start + batch)
            label = None if labels is None else torch.tensor(labels[part])
            *_, last = self.sample(label, options, SeededNoise(seeds[part], "pixels"))
            yield last.x


STAGE = Pixels

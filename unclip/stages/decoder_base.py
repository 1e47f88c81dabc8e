"""The base of every decoder: z_i and a caption → a picture, by diffusion over pixels or over latents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import RequestError
from unclip.stages.config import SamplingConfig
from unclip.stages.diffusion import DiffusionStage


class BaseDecoder(DiffusionStage):
    """A stage that samples pictures for z_i.

    The tensors of a walk, x and x0, are in the space of its diffusion: pixels in [−1, 1] here, latents for a
    decoder with an autoencoder. `encode` maps pictures to it, `render` maps back. A decoder that needs weights
    for that holds `in_place` in both, which loads the weights of an offloaded stage.

    Attributes:
        size: side in pixels of its square pictures.
        embed: width D of z_i.
        unit: the width and height of its pictures in pixels are multiples of this number.
        inpaints: whether its network reads the known part of a picture.
        flexible: whether it was trained at several sizes and shapes, so that any multiples of `unit` work.
            Otherwise a picture's area stays near that of its square.
        encodes_text: whether it encodes `Text.captions` itself, so that it needs no CLIP's `Text`.
    """

    role = "decoder"
    size: int
    embed: int
    unit: int
    inpaints: bool = False
    flexible: bool = False
    encodes_text: ClassVar[bool] = False

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one x for a picture of (width, height) pixels, without the batch dimension."""
        width, height = size
        return 3, height, width

    @property
    def reads_text(self) -> bool:
        """Whether its network reads the caption; otherwise a negative prompt acts through the null z_i."""
        return self.encodes_text or "text" in self.needs

    def check_options(self, options: SamplingConfig) -> None:
        """Check what this decoder cannot do.

        Raises:
            RequestError: a noise level of z_i that it does not read, or as in `DiffusionStage`.
        """
        super().check_options(options)
        if options.noise_level:
            raise RequestError(
                f"decoder: noise_level {options.noise_level:g}: this decoder reads z_i without noise"
            )

    @abstractmethod
    def sample(
        self,
        image_embed: Tensor,
        text: Text,
        null: Text,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
        *,
        size: tuple[int, int] | None = None,
        null_embed: Tensor | None = None,
    ) -> Iterator[Step]:
        """Samples x [B, …], which `render` maps to pictures [B, 3, height, width].

        Args:
            image_embed: z_i, [B, D].
            text: captions, B rows; `Text.plain` unless "text" is in `needs`.
            null: null caption of guidance (the empty or a negative one), B rows.
            noise: for B images.
            trajectory: start, direction and known part of the walk. Default: from noise.
            size: (width, height) of the pictures in pixels. Default: the square of side `size`.
            null_embed: null z_i of guidance, [B, D]. Default: the decoder's own.
        """

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [−1, 1] → x0 [B, …]."""
        return images

    def render(self, x0: Tensor) -> Tensor:
        """x0 [B, …] → pictures [B, 3, H, W]; values may leave [−1, 1]."""
        return x0

    def encode_known(self, known: Known) -> Known:
        """The known part of pictures as the known part of x0."""
        return known

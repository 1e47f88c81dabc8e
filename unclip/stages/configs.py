"""Configuration of every kind of stage. This module does not import torch: mistakes are found at once."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from unclip.config import WrongValue
from unclip.diffusion.config import DiffusionConfig
from unclip.nn.config import Architecture, TransformerConfig, UNetConfig
from unclip.stages.config import DiffusionStageConfig, SamplingConfig, StageConfig
from unclip.stages.latent_configs import KandinskyDecoderConfig, StableDecoderConfig
from unclip.stages.prior_configs import AutoregressiveConfig, OnePassConfig, PriorConfig, VectorPriorConfig

Degradation = Literal["none", "blur", "bsr"]
SMALLEST_INPUT = 3  # pixels of a degraded input's side: a blur reflects 2 pixels at each border


class TextEncoderConfig(TransformerConfig):
    """Shape of the decoder's own text encoder, which is trained with it (GLIDE, DALL·E 2).

    Attributes:
        vocabulary: number of tokens.
        context: number of tokens of a caption.
    """

    vocabulary: int = Field(ge=1)
    context: int = Field(ge=1)


class DecoderConfig(DiffusionStageConfig):
    """Configuration of a decoder: z_i and a caption to a picture.

    Attributes:
        size: side of the pictures in pixels.
        embed: width D of CLIP's embeddings.
        token_width: width of CLIP's token states.
        context_width: width of the tokens that the U-Net attends to.
        unet: shape of the network.
        text_encoder: a text encoder of its own. None to read CLIP's token states.
        embed_drop: share of z_i dropped in training, for classifier-free guidance.
        text_drop: share of the captions dropped in training.
        inpaint: whether the network also gets the known pixels and their mask, as GLIDE's inpainting model
            does (Nichol et al. 2021, §2.4).
    """

    dropped_keys: ClassVar[dict[str, float]] = {"perceptual": 0}

    kind: str = "decoder"
    size: int = Field(64, ge=1)
    embed: int = Field(ge=1)
    token_width: int = Field(ge=1)
    context_width: int = Field(ge=1)
    unet: UNetConfig
    text_encoder: TextEncoderConfig | None = None
    embed_drop: float = Field(0.1, ge=0, le=1)
    text_drop: float = Field(0.5, ge=0, le=1)
    inpaint: bool = False
    diffusion: DiffusionConfig = DiffusionConfig(variance="learned", objective="hybrid")
    sampling: SamplingConfig = SamplingConfig(steps=50, guidance=3.0)

    @model_validator(mode="after")
    def _levels_divide_size(self) -> Self:
        self.unet.check_side("size", self.size)
        return self


class UpsamplerConfig(DiffusionStageConfig):
    """Configuration of an upsampler.

    Attributes:
        size: side of the output in pixels.
        factor: ratio of the output's side to the input's.
        crop_fraction: side of the training crops as a share of `size`; the network has convolutions only, so
            it generalises from crops to whole images.
        unet: shape of the network.
        degradation: how the low-resolution input is degraded in training.
        noise_level: largest noise level of the low-resolution input in training: noise conditioning
            augmentation (Ho et al. 2021, CDM, §4.2). Each image has a level, uniform in [0, noise_level],
            that the network is given; `sampling.noise_level` chooses it when sampling. 0 is none.
        redrawn: share of the training inputs taken from the samples' `KEY.low.png`, in place of the resized
            image: the input as the previous stage draws it (`tools/recipes/redraw.py`).
        residual: predict what to add to the resized input instead of the whole x0, so that an untrained
            network equals bicubic resampling. Small networks need it. For x0-prediction only.
        catmull_rom: resize the input by Catmull–Rom splines without clamping, as Karlo does; otherwise by
            torch's bicubic kernel, clamped to [−1, 1].
        expert: use a second U-Net for the last step, at t = 0 (Karlo, which fine-tuned it adversarially).
    """

    kind: str = "upsampler"
    size: int = Field(ge=1)
    factor: int = Field(4, ge=1)
    crop_fraction: float = Field(0.25, gt=0, le=1)
    unet: UNetConfig
    degradation: Degradation = "blur"
    noise_level: float = Field(0.0, ge=0, le=1)
    redrawn: float = Field(0.0, ge=0, le=1)
    residual: bool = False
    catmull_rom: bool = False
    expert: bool = False
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig(steps=27, sampler="ddim")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.residual and (self.diffusion.predict != "x0" or self.diffusion.variance == "learned"):
            raise WrongValue("residual", "needs diffusion.predict x0 and a fixed variance")
        if self.sampling.noise_level > self.noise_level:
            raise WrongValue("sampling.noise_level", f"must not exceed noise_level {self.noise_level:g}")
        return self

    def check_training(self) -> None:
        super().check_training()
        if self.sampling.guidance != 1:
            raise WrongValue("sampling.guidance", "must be 1: an upsampler reads no caption")
        self.unet.check_side("size", self.size)
        least = self.factor * (1 if self.degradation == "none" else SMALLEST_INPUT)
        if self.crop < least:
            raise WrongValue(
                "crop_fraction",
                f"{self.crop_fraction:g} of {self.size} pixels is {self.crop}, but factor {self.factor} and "
                f"degradation {self.degradation} need {least}",
            )
        self.unet.check_side("crop_fraction", self.crop)

    @property
    def crop(self) -> int:
        """Side of the training crops in pixels."""
        return round(self.size * self.crop_fraction)


class PixelsConfig(DiffusionStageConfig):
    """Configuration of a diffusion model of small images, unconditional or class-conditional.

    Attributes:
        size: side of the pictures in pixels; divisible by 2 for each level of the U-Net but the first.
        channels: 1 for grey pictures, 3 for coloured ones.
        classes: number of classes; 0 for an unconditional model.
        label_drop: share of the labels dropped in training, for classifier-free guidance.
        continuous: train in the continuous time of the VP SDE instead of at T timesteps; the linear schedule
            is its discretisation.
        flips: mirror half of the images in training.
        dequantise: add uniform noise of one level's width to the training data, which gives it a density.
            Likelihoods by the ODE need it.
        unet: shape of the network.
    """

    kind: str = "pixels"
    size: int = Field(ge=4)
    channels: Literal[1, 3] = 3
    classes: int = Field(0, ge=0)
    label_drop: float = Field(0.1, ge=0, le=1)
    continuous: bool = False
    flips: bool = False
    dequantise: bool = False
    unet: UNetConfig
    diffusion: DiffusionConfig = DiffusionConfig(schedule="linear", variance="fixed_large")
    sampling: SamplingConfig = SamplingConfig(steps=1000)

    @model_validator(mode="after")
    def _continuous_is_vp(self) -> Self:
        which = self.diffusion
        chosen = (which.schedule, which.predict, which.objective)
        if self.continuous and chosen != ("linear", "eps", "simple"):
            raise WrongValue(
                "continuous", "needs diffusion.schedule linear, predict eps and objective simple"
            )
        if self.continuous and (which.variance == "learned" or which.weight != "none"):
            raise WrongValue("continuous", "needs a diffusion of fixed variance and no weight")
        return self

    def check_training(self) -> None:
        super().check_training()
        if self.sampling.guidance != 1 and not self.classes:
            raise WrongValue("sampling.guidance", "must be 1: without classes there is nothing to guide to")

    @model_validator(mode="after")
    def _levels_divide_size(self) -> Self:
        self.unet.check_side("size", self.size)
        return self


class ClipConfig(StageConfig):
    """Configuration of a CLIP that is trained here.

    Attributes:
        name: first half of the identity of the trained weights; the second half is a hash of them.
        architecture: shape of both encoders.
    """

    kind: str = "clip"
    name: str = "clip"
    architecture: Architecture

    def check_training(self) -> None:
        if self.lora is not None:
            raise WrongValue("lora", "is for priors, decoders and upsamplers; a CLIP is trained as a whole")


_ALL: tuple[type[StageConfig], ...] = (
    AutoregressiveConfig,
    ClipConfig,
    DecoderConfig,
    KandinskyDecoderConfig,
    OnePassConfig,
    PixelsConfig,
    PriorConfig,
    StableDecoderConfig,
    UpsamplerConfig,
    VectorPriorConfig,
)
CONFIGS: dict[str, type[StageConfig]] = {config.model_fields["kind"].default: config for config in _ALL}

"""Shapes of networks, without the networks: this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unclip.config import Config, WrongValue

CHANNELS = 32  # the channels of a network are a multiple of it
RESNET_STRIDE = 32  # pixels per position of the last map of CLIP's ResNet


class UNetConfig(Config):
    """Shape of a U-Net.

    Attributes:
        channels: number of channels at the highest resolution.
        multipliers: factors of the channels, one per level; each level halves the resolution.
        depth: residual blocks per level.
        attention: levels (0 is the highest resolution) with self-attention and attention to the context.
        middle_attention: whether the middle of the lowest level has attention.
        head_channels: channels per attention head.
        scale_shift: the time embedding scales and shifts the normalised features; otherwise it is added to
            them.
        dropout: dropout inside residual blocks, while training.
        norm_groups: number of groups of group normalisation. Groups of one channel remove an image's overall
            brightness, so a narrow network needs fewer groups.
        resampling: resample between levels by a residual block (ADM) or one convolution (Ho et al. 2020).
        patch: factor of the pixel unshuffle before the first layer (Shi et al. 2016); a network at 1024 px
            then costs as much as one at 1024/patch. 1 is the paper's network.
        refine: channels of a residual head that corrects the output at full resolution, across the borders of
            patches, which otherwise show as a grain of their period. The identity at first. 0 for none.
    """

    channels: int = Field(ge=CHANNELS, multiple_of=CHANNELS)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    depth: int = Field(ge=1)
    attention: tuple[int, ...] = ()
    middle_attention: bool = False
    head_channels: int = Field(64, ge=1)
    scale_shift: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    norm_groups: int = Field(32, ge=1)
    resampling: Literal["block", "convolution"] = "block"
    patch: int = Field(1, ge=1)
    refine: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        levels = len(self.multipliers)
        if any(not 0 <= level < levels for level in self.attention):
            raise WrongValue("attention", f"{self.attention}: the levels are 0 to {levels - 1}")
        if self.channels % self.norm_groups:
            raise WrongValue(
                "norm_groups", f"{self.norm_groups} does not divide the {self.channels} channels"
            )
        attending = [*self.attention, *([levels - 1] if self.middle_attention else [])]
        for width in (self.channels * self.multipliers[level] for level in attending):
            if width > self.head_channels and width % self.head_channels:
                raise WrongValue(
                    "head_channels",
                    f"{self.head_channels} does not divide the width {width} of a level that attends",
                )
        return self

    @property
    def unit(self) -> int:
        """The number of pixels that the sides of its images are multiples of: `patch` · 2^(levels − 1)."""
        return self.patch << (len(self.multipliers) - 1)

    def check_side(self, key: str, side: int) -> None:
        """Check that the network can process images of `side` × `side` pixels.

        Raises:
            WrongValue: the side is not a multiple of `unit`.
        """
        unit = self.unit
        if side < unit or side % unit:
            raise WrongValue(
                key,
                f"{side} pixels, but the U-Net (patch {self.patch}, {len(self.multipliers)} levels) needs a "
                f"multiple of {unit}",
            )
        if side == unit and self.channels * self.multipliers[-1] == self.norm_groups:
            raise WrongValue(key, f"{side} pixels, but groups of one channel cannot normalise one pixel")


class TransformerConfig(Config):
    """Shape of a transformer.

    Attributes:
        width: width of the residual stream.
        depth: number of blocks.
        heads: number of attention heads; must divide the width.
    """

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    heads: int = Field(ge=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise WrongValue("heads", f"{self.heads} does not divide width {self.width}")
        return self


class ClipTextConfig(TransformerConfig):
    """Shape of a CLIP's text encoder, as transformers' models have it.

    Attributes:
        vocabulary: number of tokens of the tokenizer.
        context: largest number of tokens of a caption.
        mlp_width: width of the MLPs' hidden layer; None for 4 · width.
        activation: activation of the MLPs; OpenAI's CLIPs have quick_gelu.
    """

    vocabulary: int = Field(ge=1)
    context: int = Field(ge=3)
    mlp_width: int | None = Field(None, ge=1)
    activation: Literal["quick_gelu", "gelu"]


class Architecture(Config):
    """A CLIP to build with open_clip's model class.

    Attributes:
        embed: width D of the shared embedding.
        image_size: side of the vision tower's input in pixels.
        patch: side of a vision transformer's patches in pixels.
        vision_width: width of the vision tower.
        vision_depth: depth of the vision tower. One number makes a transformer; four make CLIP's ResNet with
            that many blocks per level, which learns small details (hats) from far fewer pictures.
        vision_queries: number of attention queries that pool the vision tower's last map, see `PooledTower`;
            the tower then has a level for each depth. 0 for open_clip's own towers.
        text_width: width of the text transformer.
        text_depth: depth of the text transformer.
        head: channels per attention head, in both towers.
        merges: number of CLIP's 48,894 byte-pair merges that the tokenizer keeps. The first ones are the most
            frequent, so a prefix is a complete tokenizer that splits rare words further. The embedding table
            shrinks with it (OpenAI's 49,408 rows would be most of a small model).
        context: largest number of tokens of a caption.
    """

    embed: int = Field(ge=8)
    image_size: int = Field(64, ge=1)
    patch: int = Field(8, ge=1)
    vision_width: int = Field(ge=2)
    vision_depth: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...]
    vision_queries: int = Field(0, ge=0)
    text_width: int = Field(ge=1)
    text_depth: int = Field(ge=1)
    head: int = Field(64, ge=1)
    merges: int = Field(48_894, ge=0, le=48_894)
    context: int = Field(77, ge=4)

    @model_validator(mode="after")
    def _tower_is_known(self) -> Self:
        levels = None if isinstance(self.vision_depth, int) else len(self.vision_depth)
        if self.vision_queries and not levels:
            raise WrongValue("vision_queries", "needs a list of depths in vision_depth, one per level")
        if not self.vision_queries and levels not in (None, 4):
            raise WrongValue("vision_depth", "one depth makes a transformer, four make CLIP's ResNet")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        depth, size = self.vision_depth, self.image_size
        if self.vision_queries and not isinstance(depth, int):
            if size % 2 ** len(depth):
                raise WrongValue("image_size", f"{size} pixels, which {len(depth)} levels cannot halve")
        elif isinstance(depth, int):
            if size < self.patch:
                raise WrongValue("patch", f"{self.patch} pixels, but image_size is {size}")
            self._check_heads("vision_width", self.vision_width)
        else:
            if size < RESNET_STRIDE:
                raise WrongValue("image_size", f"{size} pixels, but CLIP's ResNet needs {RESNET_STRIDE}")
            self._check_heads("vision_width", 32 * self.vision_width)
            if self.vision_width % 2:
                raise WrongValue("vision_width", f"{self.vision_width} must be even for CLIP's ResNet")
        if self.text_width % max(self.text_width // self.head, 1):
            raise WrongValue("text_width", f"{self.text_width} is not a multiple of head, {self.head}")
        return self

    def _check_heads(self, key: str, width: int) -> None:
        if width < self.head or width % (width // self.head):
            raise WrongValue(key, f"{width} channels attend, which head {self.head} does not divide")

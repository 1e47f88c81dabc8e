"""Configuration of every kind of prior. This module does not import torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from unclip.config import Config, WrongValue
from unclip.diffusion.config import DiffusionConfig
from unclip.nn.config import TransformerConfig
from unclip.stages.config import DiffusionStageConfig, SamplingConfig, StageConfig


class DiffusionPriorConfig(DiffusionStageConfig):
    """The config fields of every diffusion prior."""

    diffusion: DiffusionConfig = DiffusionConfig(predict="x0", clamp=None)

    @model_validator(mode="after")
    def _variance_is_fixed(self) -> Self:
        if self.diffusion.variance == "learned":
            raise WrongValue("diffusion.variance", "learned: a prior's network predicts no variance")
        return self


class EmbeddingPriorConfig(StageConfig, TransformerConfig):
    """The config fields of every prior, whatever its condition.

    Attributes:
        embed: width D of CLIP's embeddings.
    """

    embed: int = Field(ge=1)


class BasePriorConfig(EmbeddingPriorConfig):
    """The config fields of every prior that reads a caption.

    Attributes:
        token_width: width of CLIP's token states.
        context: largest number of tokens of a caption.
        text_drop: share of the captions, with their embeddings, dropped in training, for classifier-free
            guidance.
    """

    token_width: int = Field(ge=1)
    context: int = Field(77, ge=1)
    text_drop: float = Field(0.1, ge=0, le=1)


class PriorConfig(DiffusionPriorConfig, BasePriorConfig):
    """Configuration of the diffusion prior.

    Attributes:
        normalise: how z_i is scaled for the diffusion: whitened by its measured mean and deviation (Karlo),
            or multiplied by a fixed scale (the paper).
        scale: the fixed scale of `normalise: scale`; the paper's is 17.2.
    """

    kind: str = "prior"
    normalise: Literal["whiten", "scale"] = "whiten"
    scale: float = Field(17.2, gt=0)
    sampling: SamplingConfig = SamplingConfig(steps=25, guidance=2.0, candidates=2)


class AutoregressiveConfig(BasePriorConfig):
    """Configuration of the autoregressive prior.

    Attributes:
        explained: share of z_i's variance in the kept principal components; it sets their number (the
            paper keeps 319 of 1,024 and loses less than 1 %).
        buckets: number of buckets that each component is quantised into.
        dots: number of buckets, with equal counts, of the dot product z_i · z_t.
    """

    kind: str = "prior_ar"
    explained: float = Field(0.99, gt=0, le=1)
    buckets: int = Field(1024, ge=2)
    dots: int = Field(64, ge=2, multiple_of=2)
    sampling: SamplingConfig = SamplingConfig(guidance=1.5)


class OnePassConfig(BasePriorConfig):
    """Configuration of the one-pass prior (ECLIPSE).

    Attributes:
        contrast: weight of the contrastive loss beside the squared error (the paper's λ).
        temperature: temperature of the contrastive loss.
        causal: each token attends to itself and earlier tokens only, as in ECLIPSE's own networks.
    """

    kind: str = "prior_onepass"
    contrast: float = Field(0.2, ge=0)
    temperature: float = Field(0.07, gt=0)
    causal: bool = False
    sampling: SamplingConfig = SamplingConfig(steps=1, guidance=1.0)


class VectorsConfig(Config):
    """The vectors that a prior reads in place of a caption.

    Attributes:
        width: numbers in a vector.
        count: vectors of a sample.
        tokens: tokens of the transformer that each vector is projected to.
    """

    width: int = Field(ge=1)
    count: int = Field(1, ge=1)
    tokens: int = Field(1, ge=1)


class VectorPriorConfig(DiffusionPriorConfig, EmbeddingPriorConfig):
    """Configuration of the diffusion prior that reads vectors in place of a caption.

    Attributes:
        vectors: the vectors of a sample; `data.vectors` says where they are.
        vector_drop: share of the samples whose vectors are dropped in training, for classifier-free guidance.
    """

    kind: str = "prior_vectors"
    vectors: VectorsConfig
    vector_drop: float = Field(0.1, ge=0, le=1)
    sampling: SamplingConfig = SamplingConfig(steps=25, guidance=1.0)

    def check_training(self) -> None:
        super().check_training()
        if self.sampling.candidates != 1:
            raise WrongValue(
                "sampling.candidates", "must be 1: without a caption there is no z_t to choose by"
            )

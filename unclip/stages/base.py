"""What every stage has in common: a config, a network, a loss, and a folder on disk.

A stage's `forward` is its loss, so that whatever wraps a module (DDP, FSDP, torch.compile) works by
construction. Call `stage(batch)`, never `stage.forward(batch)`; to use a trained stage, call its `sample`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unclip.clip import ClipSizes, Text, same_clip
from unclip.config import Config, parse
from unclip.diffusion.diffusion import Cond, Denoise, Diffusion, DiffusionConfig, Guidance
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import load_weights, read_json, save_weights, write_json
from unclip.nn.transformer import TransformerConfig


@dataclass(frozen=True)
class Batch:
    """What a training step reads; a stage's `needs` says which fields it must find filled.

    Attributes:
        captions: [B] strings.
        image: [B, 3, H, W] in [−1, 1], at the stage's size.
        image_embed: z_i, [B, D].
        text: the encoded captions.
        null: the encoded empty caption (one row), which stands in where the text is dropped.
        clip_image: the whole picture as the frozen CLIP sees it, uint8 [B, S, S, 3]. Only until `image_embed`
            is made of it.
        label: number of the picture's class, int64 [B] on the CPU; None where a sample has none.
        keys: [B] names of the samples, for messages.
        seeds: of what is drawn for each example, int64 [B] on the CPU; without them torch's generator
            decides.
        skipped: bad samples that were met on the way, by (shard, reason).
    """

    captions: tuple[str, ...] = ()
    image: Tensor | None = None
    image_embed: Tensor | None = None
    text: Text | None = None
    null: Text | None = None
    clip_image: Tensor | None = None
    label: Tensor | None = None
    keys: tuple[str, ...] = ()
    seeds: Tensor | None = None
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def rng(self, like: Tensor) -> ExampleRng:
        """The generators of this batch's draws, for tensors [B, ...] like that one."""
        seeds = torch.randint(2**62, (len(like),), device="cpu") if self.seeds is None else self.seeds
        return ExampleRng(seeds, like.device)

    def dropout(self) -> Cond:
        """What a network with dropout is to know of it."""
        return {} if self.seeds is None else {"seeds": self.seeds}

    def to(self, device: torch.device | str) -> Batch:
        """On another device."""
        fields = ("image", "clip_image", "image_embed", "text", "null")
        moved = {k: v.to(device) for k in fields if (v := getattr(self, k)) is not None}
        return replace(self, **moved)


class SamplingConfig(Config):
    """How a stage is sampled by default; every field can be overridden per request.

    Attributes:
        steps: denoising steps.
        sampler: name of the sampler: ddpm, ddim, dpmpp_2m, unipc, analytic_dpm.
        eta: DDIM's share of fresh noise.
        guidance: scale of classifier-free guidance; 1 is none.
        interval: guide only where low ≤ t/T ≤ high.
        rescale: share by which the guided prediction is rescaled to the standard deviation of the unguided
            one.
        candidates: number of z_i that the prior samples; the one nearest to the caption's z_t is kept.
    """

    steps: int = Field(25, ge=1, le=1000)
    sampler: str = "ddpm"
    eta: float = Field(0.0, ge=0, le=1)
    guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    interval: tuple[float, float] | None = None
    rescale: float = Field(0.0, ge=0, le=1)
    candidates: int = Field(1, ge=1, le=64)

    def updated(self, changes: Mapping[str, Any]) -> SamplingConfig:
        """With some fields changed; a wrong value is a RequestError."""
        try:
            return type(self).model_validate({**self.model_dump(), **changes})
        except ValueError as error:
            problems: list[Any] = getattr(error, "errors", list)()
            said = "; ".join(
                f"{'.'.join(map(str, p['loc']))}: {p['msg']}, not {p['input']!r}" for p in problems
            )
            raise RequestError(said or str(error)) from None


class StageConfig(Config):
    """The part of a config that all stages share.

    Attributes:
        kind: the stage's module in `unclip.stages`, or the full name of a module.
        clip: identity of the CLIP that the stage is trained with; training fills it in. Stages of different
            CLIPs refuse to work together.
        sampling: how the stage is sampled by default.
    """

    kind: str
    clip: str | None = None
    sampling: SamplingConfig = SamplingConfig()


class Moments(NamedTuple):
    """Mean and deviation of z_i per dimension, [D] each: what it is whitened by."""

    mean: Tensor
    std: Tensor


class Stage(nn.Module, ABC):
    """One trainable link, built from its config alone.

    Attributes:
        role: what it is in a model: "clip", "prior", "decoder" or "upsampler"; None for a stage of no model.
    """

    role: ClassVar[str | None] = None
    Config: ClassVar[type[StageConfig]]
    needs: ClassVar[frozenset[str]]
    size: int | None = None  # side in pixels of the pictures it is trained on; None if it needs none

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.config = config
        self.context: int | None = (
            None  # tokens of the longest caption it can read; None if any length will do
        )

    @property
    def crop(self) -> int | None:
        """Side in pixels of the random crops taken of them; `size` takes whole ones."""
        return self.size

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of each example, [B]."""

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Called once, before training from scratch, with a few batches to measure statistics on.

        Args:
            batches: embedded; read only by a stage that wants more than `moments` say.
            moments: of z_i over the whole data set, where its embeddings were computed beforehand.
        """

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapts another stage's state dict so that this stage can be initialised from it."""
        return state

    def for_clip(self, clip: ClipSizes) -> None:
        """Records the CLIP it is trained with.

        Raises:
            ConfigError: the stage is for another one, its widths are not that CLIP's, or it reads shorter
                captions.
        """
        if self.config.clip is not None and not same_clip(self.config.clip, clip):
            raise ConfigError(f"the stage is trained with CLIP {self.config.clip}, not with {clip.identity}")
        for key, theirs in (("embed", clip.width), ("token_width", clip.token_width)):
            ours = getattr(self.config, key, theirs)
            if ours != theirs:
                raise ConfigError(f"stage.{key} is {ours}, but {clip.identity} has {theirs}")
        if self.context is not None and self.context < clip.context:
            raise ConfigError(
                f"the stage reads {self.context} tokens, but {clip.identity} writes up to {clip.context}"
            )
        self.config = self.config.model_copy(update={"clip": clip.identity})

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """config.json and model.safetensors, into an existing folder."""
        write_json(folder / "config.json", self.config.model_dump(mode="json"))
        save_weights(self, folder / "model.safetensors", dtype)

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype | None = torch.float32) -> Self:
        """The stage that `save` wrote, on the CPU; see `load_weights`. Draws no random number: resuming stays
        exact.
        """
        config = parse_checkpoint(cls.Config, folder)
        with torch.device("meta"):
            stage = cls(config)
        load_weights(stage, folder / "model.safetensors", dtype=dtype)
        return stage.eval()


class BasePriorConfig(StageConfig, TransformerConfig):
    """What the config of every prior has.

    Attributes:
        embed: width D of CLIP's embeddings.
        token_width: width of CLIP's token states.
        context: largest number of tokens of a caption.
        text_drop: share of the captions, with their embeddings, dropped in training, for classifier-free
            guidance.
    """

    embed: int
    token_width: int
    context: int = 77
    text_drop: float = Field(0.1, ge=0, le=1)


class BasePrior(Stage):
    """Whatever makes z_i of a caption: the diffusion prior and those that take its place in a pipeline."""

    role = "prior"
    network: nn.Module

    @abstractmethod
    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Steps whose last x is z_i [B, D] of B captions; `null` is what guidance leads away from."""

    def length(self, options: SamplingConfig) -> int:
        """How many steps `sample` takes."""
        return options.steps


def whitening(batches: Iterable[Batch], moments: Moments | None) -> Moments:
    """What to whiten z_i by: the moments, measured on the batches where they are not given; no deviation is
    0.
    """
    if moments is None:
        embeds = torch.cat([b.image_embed.float().cpu() for b in batches if b.image_embed is not None])
        moments = Moments(embeds.mean(0), embeds.std(0))
    return Moments(moments.mean, moments.std.clamp(min=1e-4))


def parse_checkpoint(kind: type[StageConfig], folder: Path, tree: dict[str, Any] | None = None) -> Any:
    """A saved stage's config: its config.json, or what is left of it in `tree`."""
    try:
        return parse(
            kind, read_json(folder / "config.json") if tree is None else tree, f"{folder}/config.json"
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


class DiffusionStageConfig(StageConfig):
    """What the config of every stage that denoises has.

    Attributes:
        diffusion: the diffusion's schedule, prediction and loss.
    """

    diffusion: DiffusionConfig = DiffusionConfig()


class DiffusionStage(Stage):
    """A stage whose network denoises something. Subclasses set `network` and say what the condition is."""

    network: nn.Module

    def __init__(self, config: DiffusionStageConfig) -> None:
        super().__init__(config)
        self.diffusion = Diffusion(config.diffusion)
        # Entered for as long as it walks; a pipeline that offloads has it put the weights in place and away
        # again.
        self.in_place: Callable[[], AbstractContextManager[None]] = nullcontext

    def _draw(self, rng: ExampleRng, x0: Tensor) -> tuple[Tensor, Tensor]:
        """A time and noise for every example."""
        return rng.integers(self.diffusion.schedule.times), rng.normal(x0)

    def walk(
        self,
        shape: tuple[int, ...],
        cond: Cond,
        null: Cond | None,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
    ) -> Iterator[Step]:
        """Samples x of that shape: the one place where a stage walks, in whichever way.

        Args:
            cond, null: the network's condition, and the one that guidance leads away from.
            noise: for shape[0] examples.
            trajectory: start, direction and known part of the walk.

        Raises:
            RequestError: no such sampler.
        """
        sampler = find_sampler(options.sampler, options.eta)

        def steps() -> Iterator[Step]:
            with self.in_place():
                denoise = self.denoiser(cond, null, options)
                # At least float32: half precision is for the network alone, its sum of many small steps
                # drifts.
                finest = torch.promote_types(next(self.network.parameters()).dtype, torch.float32)
                like = torch.empty(shape, device=self.device, dtype=finest)
                yield from trajectory.walk(
                    sampler, denoise, self.diffusion.schedule, options.steps, noise, like
                )

        return steps()

    def denoiser(self, cond: Cond, null: Cond | None, options: SamplingConfig) -> Denoise:
        """The guided network as the samplers see it: (x_t, t) → Prediction. Only inside `in_place`."""
        guidance = Guidance(options.guidance, options.interval, options.rescale)
        return self.diffusion.denoiser(self.network, cond, null, guidance)


def drop_text(text: Text, null: Text, keep: Tensor) -> Text:
    """The text, with the rows where `keep` [B] is False replaced by the one row of `null`.

    torch.where and not a branch: every parameter is in every step's graph, as data-parallel training wants
        it.
    """
    text, null = pad_to_same_length(text, null)
    column = keep[:, None]
    return Text(
        text.captions,
        torch.where(column, text.ids, null.ids),
        torch.where(column, text.mask, null.mask),
        torch.where(column, text.embed, null.embed),
        torch.where(column[..., None], text.tokens, null.tokens),
    )


def pad_to_same_length(a: Text, b: Text) -> tuple[Text, Text]:
    """Both padded to the longer one's number of tokens."""
    length = max(a.ids.shape[1], b.ids.shape[1])

    def padded(text: Text) -> Text:
        extra = length - text.ids.shape[1]
        tokens = F.pad(text.tokens, (0, 0, 0, extra))
        return Text(
            text.captions, F.pad(text.ids, (0, extra)), F.pad(text.mask, (0, extra)), text.embed, tokens
        )

    return padded(a), padded(b)

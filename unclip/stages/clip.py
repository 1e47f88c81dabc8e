"""Contrastive training of the encoders themselves (Radford et al. 2021), with open_clip's model class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from unclip.clip.identity import weights_identity
from unclip.clip.openclip import build
from unclip.clip.preprocess import Preprocess
from unclip.clip.text_tower import causal_mask, text_states, tokenize, tokenizer_with
from unclip.files import load_weights, read_json, save_weights, write_json
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.config import parse_checkpoint
from unclip.stages.configs import ClipConfig as ClipConfig

LENGTH_GROUPS = 4  # parts that a batch of captions is split into, by length


class ClipStage(Stage):
    """Both encoders and the temperature, trained by the symmetric InfoNCE loss over the global batch."""

    role = "clip"
    Config = ClipConfig
    size: int
    needs: ClassVar[frozenset[str]] = frozenset({"image", "captions"})

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        self.architecture = config.architecture
        self.name, self.size = config.name, config.architecture.image_size
        self.preprocess = Preprocess(self.size)
        self.model = build(config.architecture)
        self.tokenizer = tokenizer_with(config.architecture.merges, config.architecture.context)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None
        z_t = self.encode_captions(batch.captions)
        z_i = self.model.encode_image(self.preprocess(batch.image))
        z_t, z_i = F.normalize(z_t.float(), dim=-1), F.normalize(z_i.float(), dim=-1)
        all_t, all_i, first = z_t, z_i, 0
        if dist.is_initialized() and dist.get_world_size() > 1:
            all_t, all_i = torch.cat(all_gather(z_t)), torch.cat(all_gather(z_i))
            first = dist.get_rank() * len(z_t)
        scale = self.model.logit_scale.exp().clamp(max=100)
        own = torch.arange(first, first + len(z_t), device=z_t.device)
        to_text = F.cross_entropy(scale * z_i @ all_t.T, own, reduction="none")
        to_image = F.cross_entropy(scale * z_t @ all_i.T, own, reduction="none")
        return (to_text + to_image) / 2

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """z_t of the captions, [B, D].

        Captions are encoded in groups of similar length: padding all of them to the longest costs 50 % more.
        """
        ids, mask = tokenize(self.tokenizer, captions, self.architecture.context)
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = []
        for rows in order.chunk(LENGTH_GROUPS):
            part = ids[rows, : int(lengths[rows].max())].to(self.device)
            parts.append(text_states(self.model, part, self.tokenizer.eot_token_id)[1])
        return torch.cat(parts)[order.argsort().to(self.device)]

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """As `Stage.save`, with the identity of the weights; a later copy in half precision keeps it."""
        identity = self.config.clip or weights_identity(self.name, self.state_dict())
        write_json(
            folder / "config.json",
            {**self.config.model_dump(mode="json"), "clip": None, "identity": identity},
        )
        save_weights(self, folder / "model.safetensors", dtype)

    @classmethod
    def load(cls, folder: Path, *, keep_dtype: bool = False) -> Self:
        tree = read_json(folder / "config.json")
        identity = tree.pop("identity", None)
        config = parse_checkpoint(ClipConfig, folder, tree)
        with torch.device("meta"):
            stage = cls(config)
        stage.model.attn_mask = causal_mask(config.architecture.context)
        load_weights(stage, folder / "model.safetensors", keep_dtype=keep_dtype)
        stage.config = config.model_copy(update={"clip": identity})
        return stage.eval()


STAGE = ClipStage

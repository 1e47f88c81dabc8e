"""Read ECLIPSE's priors (Patel et al. 2024): a caption → z_i in one pass, without diffusion.

They are saved as diffusers' PriorTransformer without its timestep, so with three tokens after the caption
instead of four. The network is causal, its noise is standard normal, and it is never guided. Source:
github.com/eclipse-t2i/eclipse-inference, src/priors and src/pipelines.
"""

from __future__ import annotations

from pathlib import Path

import torch

from unclip.models.convert import diffusers_keys
from unclip.models.convert.diffusers_configs import PriorTransformer
from unclip.models.convert.weights import filled, read_component
from unclip.stages.config import parse_checkpoint
from unclip.stages.prior_onepass import OnePassPrior

EXTRA_TOKENS = 3  # z_t, noise, learned query

# The CLIPs that the published priors were trained with (Karlo's, Kandinsky 2.2's), by the width of z_i.
CLIPS = {768: "openclip:ViT-L-14/openai", 1280: "openclip:ViT-bigG-14/laion2b_s39b_b160k"}


def read_prior(folder: Path, theirs: PriorTransformer) -> OnePassPrior:
    """Read an ECLIPSE prior, given its folder and config."""
    config = parse_checkpoint(
        OnePassPrior.Config,
        folder,
        {
            "embed": theirs.embedding_dim,
            "token_width": theirs.embedding_dim,
            "context": theirs.num_embeddings,
            "width": theirs.num_attention_heads * theirs.attention_head_dim,
            "depth": theirs.num_layers,
            "heads": theirs.num_attention_heads,
            "causal": True,
        },
    )
    with torch.device("meta"):
        stage = OnePassPrior(config)
    # The network's output is z_i itself: ECLIPSE's pipelines never apply the statistics in the file.
    one = torch.ones(config.embed)
    weights = {**read_component(folder), "clip_mean": 0 * one, "clip_std": one}
    return filled(stage, lambda name: diffusers_keys.prior(name).removeprefix("prior."), weights, folder)

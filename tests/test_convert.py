"""Conversion of Karlo's configs: parameter counts on the meta device, and the shapes of configs/karlo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unclip.cli import cli
from unclip.errors import CheckpointError, RequestError
from unclip.models.convert import diffusers_keys, diffusers_stages
from unclip.stages.base import Stage
from unclip.train.config import read_run

KARLO = Path(__file__).parent.parent / "configs" / "karlo"
DOWN, UP = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
UNET: dict[str, Any] = {
    "layers_per_block": 3,
    "block_out_channels": [320, 640, 960, 1280],
    "norm_num_groups": 32,
    "norm_eps": 1e-05,
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
}
SUPER_RES = {
    **UNET,
    "_class_name": "UNet2DModel",
    "sample_size": 256,
    "in_channels": 6,
    "out_channels": 3,
    "down_block_types": [DOWN] * 4,
    "up_block_types": [UP] * 4,
    "add_attention": False,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
SCHEDULER = {"_class_name": "UnCLIPScheduler", "num_train_timesteps": 1000, "clip_sample": True}
# As diffusers 0.11 wrote them: keys that later versions added are not there.
CONFIGS: dict[str, dict[str, Any]] = {
    "prior": {
        "_class_name": "PriorTransformer",
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "num_layers": 20,
        "embedding_dim": 768,
        "num_embeddings": 77,
        "additional_embeddings": 4,
        "dropout": 0.0,
    },
    "decoder": {
        **UNET,
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": [DOWN, *["SimpleCrossAttnDownBlock2D"] * 3],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, UP],
        "cross_attention_dim": 1536,
        "class_embed_type": "identity",
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
        "only_cross_attention": False,
        "dual_cross_attention": False,
        "use_linear_projection": False,
        "upcast_attention": False,
        "num_class_embeds": None,
    },
    "text_proj": {
        "_class_name": "UnCLIPTextProjModel",
        "clip_embeddings_dim": 768,
        "clip_extra_context_tokens": 4,
        "cross_attention_dim": 1536,
        "time_embed_dim": 1280,
    },
    "super_res_first": SUPER_RES,
    "super_res_last": {**SUPER_RES, "sample_size": None},
    "prior_scheduler": {
        **SCHEDULER,
        "variance_type": "fixed_small_log",
        "clip_sample_range": 5.0,
        "prediction_type": "sample",
    },
    "decoder_scheduler": {
        **SCHEDULER,
        "variance_type": "learned_range",
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
    },
    "super_res_scheduler": {
        **SCHEDULER,
        "variance_type": "fixed_small_log",
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
    },
}


@pytest.fixture
def karlo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published folder without its weights; stages stay on the meta device."""
    for part, config in CONFIGS.items():
        (tmp_path / part).mkdir()
        name = "scheduler_config.json" if part.endswith("scheduler") else "config.json"
        (tmp_path / part / name).write_text(json.dumps(config))
    monkeypatch.setattr(diffusers_stages, "read_component", lambda folder: {})
    monkeypatch.setattr(diffusers_stages, "filled", lambda stage, name, weights, where: stage)
    return tmp_path


def count(stage: Stage) -> int:
    return sum(p.numel() for p in stage.parameters())


def tensors(stage: Stage, name: Any) -> dict[str, int]:
    """How many tensors of each of their parts ours are called after."""
    found = [theirs.partition(".")[0] for theirs in {name(ours) for ours in stage.state_dict()}]
    return {part: found.count(part) for part in found}


def test_prior(karlo: Path) -> None:
    prior = diffusers_stages.read_prior(karlo / "prior", karlo / "prior_scheduler")
    assert (
        count(prior) + 2 * 768 == 1_022_030_080
    )  # theirs has the embeddings' statistics among its parameters
    assert tensors(prior, diffusers_keys.prior) == {"prior": 338}
    published = read_run(KARLO / "prior.yaml").stage
    assert prior.config.model_copy(update={"clip": published.clip}) == published
    assert (
        diffusers_stages.read_prior(
            karlo / "prior", karlo / "prior_scheduler", parity=True
        ).diffusion.config.clamp
        == 5.0
    )


def test_decoder(karlo: Path) -> None:
    decoder = diffusers_stages.read_decoder(karlo)
    assert count(decoder) == 885_439_686 + 7_878_400
    assert tensors(decoder, diffusers_keys.decoder) == {"decoder": 716, "text_proj": 11}
    published: Any = read_run(KARLO / "decoder.yaml").stage
    # diffusers' config has forgotten the dropout of the training.
    unet = published.unet.model_copy(update={"dropout": 0.0})
    assert decoder.config.model_copy(update={"clip": published.clip}) == published.model_copy(
        update={"unet": unet}
    )


def test_upsampler(karlo: Path) -> None:
    upsampler = diffusers_stages.read_upsampler(karlo)
    assert count(upsampler) == 2 * 691_579_523
    assert tensors(upsampler, diffusers_keys.upsampler) == {"super_res_first": 408, "super_res_last": 408}
    published: Any = read_run(KARLO / "upsampler-256.yaml").stage
    assert upsampler.config.unet == published.unet
    assert upsampler.config.sampling == published.sampling
    assert (upsampler.size, upsampler.diffusion.config) == (256, published.diffusion)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("prior", {"added_emb_type": None}, "added_emb_type"),
        ("prior", {"_class_name": "UNet2DModel"}, "is a UNet2DModel, not a PriorTransformer"),
        ("decoder", {"addition_embed_type": "text"}, "addition_embed_type"),
        ("decoder", {"up_block_types": [UP] * 4}, "attends at other resolutions"),
        ("decoder", {"out_channels": 3}, "variance_type does not fit"),
        ("super_res_last", {"layers_per_block": 2}, "another architecture"),
        (
            "super_res_first",
            {"block_out_channels": [320, 500, 960, 1280]},
            "another architecture|no multiples",
        ),
        ("prior_scheduler", {"beta_schedule": "linear"}, "beta_schedule"),
    ],
)
def test_what_is_not_karlos_shape_is_refused(
    karlo: Path, part: str, changes: dict[str, Any], said: str
) -> None:
    path = next((karlo / part).iterdir())
    path.write_text(json.dumps({**CONFIGS[part], **changes}))
    with pytest.raises(CheckpointError, match=said) as caught:
        diffusers_stages.read_prior(karlo / "prior", karlo / "prior_scheduler")
        diffusers_stages.read_decoder(karlo)
        diffusers_stages.read_upsampler(karlo)
    assert "\n" not in str(caught.value)


def test_the_command_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="--overwrite"):
        CliRunner().invoke(cli, ["convert", str(tmp_path), str(tmp_path / "out")], catch_exceptions=False)

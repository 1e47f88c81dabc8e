"""Karlo's own checkpoint format in small: converted, and compared with diffusers' modules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models.convert import convert
from unclip.models.convert.karlo_ckpt import read_checkpoint
from unclip.pipeline import Pipeline
from unclip.stages import load_stage

declare_missing_schemas()
diffusers = pytest.importorskip("diffusers")

from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402

WIDTH, CONTEXT, HEAD = 32, 8, 64
FILES = {
    "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
    "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
    "upsampler-256": "improved-sr-ckpt-step=1.2M.ckpt",
}
State = dict[str, Tensor]


def seeded(module: nn.Module, seed: int) -> Any:
    """Away from the zeros and ones of a fresh network, so that a misplaced tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.parameters():
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
    return module.eval()


def put(state: State, name: str, module: nn.Module) -> None:
    state.update({f"{name}.{kind}": tensor.detach() for kind, tensor in module.named_parameters()})


def put_fused(state: State, name: str, parts: Iterable[nn.Linear]) -> None:
    """Karlo's order of rows: the first head of each part, then the second of each …"""
    parts = list(parts)
    heads = len(parts[0].bias) // HEAD
    for kind in ("weight", "bias"):
        rows = [getattr(part, kind).detach().chunk(heads) for part in parts]
        state[f"{name}.{kind}"] = torch.cat([of_part[h] for h in range(heads) for of_part in rows])


def put_block(state: State, name: str, block: Any) -> None:
    if not hasattr(block, "to_q"):
        places = {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
        }
        for theirs, original in places.items():
            put(state, f"{name}.{original}", getattr(block, theirs))
        if block.conv_shortcut is not None:
            put(state, f"{name}.skip_connection", block.conv_shortcut)
        return
    put(state, f"{name}.norm", block.group_norm)
    put_fused(state, f"{name}.qkv", [block.to_q, block.to_k, block.to_v])
    put_fused(state, f"{name}.encoder_kv", [block.add_k_proj, block.add_v_proj])
    put(state, f"{name}.proj_out", block.to_out[0])
    for part in ("qkv", "encoder_kv", "proj_out"):  # Karlo's are convolutions
        state[f"{name}.{part}.weight"] = state[f"{name}.{part}.weight"][:, :, None]


def unet_state(unet: Any, prefix: str) -> State:
    """The blocks in the order in which they run; a row of Karlo's holds what runs before the next skip
    connection.
    """
    state: State = {}
    down: list[list[Any]] = []
    for level in unet.down_blocks:
        attentions = getattr(level, "attentions", [])
        down += [[block, *attentions[i : i + 1]] for i, block in enumerate(level.resnets)]
        down += [[block] for block in level.downsamplers or []]
    up: list[list[Any]] = []
    for level in unet.up_blocks:
        attentions = getattr(level, "attentions", [])
        up += [[block, *attentions[i : i + 1]] for i, block in enumerate(level.resnets)]
        up[-1] += level.upsamplers or []
    middle = [
        unet.mid_block.resnets[0],
        *(a for a in unet.mid_block.attentions if a),
        unet.mid_block.resnets[1],
    ]
    for name, rows in (("input_blocks", [[], *down]), ("output_blocks", up)):
        for row, blocks in enumerate(rows):
            for place, block in enumerate(blocks):
                put_block(state, f"{prefix}.{name}.{row}.{place}", block)
    for place, block in enumerate(middle):
        put_block(state, f"{prefix}.middle_block.{place}", block)
    put(state, f"{prefix}.input_blocks.0.0", unet.conv_in)
    put(state, f"{prefix}.time_embed.0", unet.time_embedding.linear_1)
    put(state, f"{prefix}.time_embed.2", unet.time_embedding.linear_2)
    put(state, f"{prefix}.out.0", unet.conv_norm_out)
    put(state, f"{prefix}.out.2", unet.conv_out)
    return state


def prior_state(prior: Any) -> State:
    state: State = {
        "model.prd_emb": prior.prd_embedding.data,
        "model.positional_embedding": prior.positional_embedding.data,
    }
    for name, module in (
        ("time_embed.0", prior.time_embedding.linear_1),
        ("time_embed.2", prior.time_embedding.linear_2),
        ("text_enc_proj", prior.encoder_hidden_states_proj),
        ("text_emb_proj", prior.embedding_proj),
        ("clip_img_proj", prior.proj_in),
        ("out_proj", prior.proj_to_clip_embeddings),
        ("final_ln", prior.norm_out),
    ):
        put(state, f"model.{name}", module)
    for i, block in enumerate(prior.transformer_blocks):
        name = f"model.transformer.resblocks.{i}"
        put_fused(state, f"{name}.attn.c_qkv", [block.attn1.to_q, block.attn1.to_k, block.attn1.to_v])
        for original, module in (
            ("attn.c_proj", block.attn1.to_out[0]),
            ("mlp.c_fc", block.ff.net[0].proj),
            ("mlp.c_proj", block.ff.net[2]),
            ("ln_1", block.norm1),
            ("ln_2", block.norm3),
        ):
            put(state, f"{name}.{original}", module)
    return state


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    shape: Any = {"layers_per_block": 1, "block_out_channels": (64, 128), "in_channels": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "prior": seeded(
                diffusers.PriorTransformer(
                    num_attention_heads=2,
                    attention_head_dim=HEAD,
                    num_layers=2,
                    embedding_dim=WIDTH,
                    num_embeddings=CONTEXT,
                    additional_embeddings=4,
                ),
                1,
            ),
            "decoder": seeded(
                diffusers.UNet2DConditionModel(
                    **shape,
                    out_channels=6,
                    cross_attention_dim=48,
                    class_embed_type="identity",
                    attention_head_dim=HEAD,
                    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                    resnet_time_scale_shift="scale_shift",
                ),
                2,
            ),
            "text_proj": seeded(
                UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=256, cross_attention_dim=48), 3
            ),
            **{
                name: seeded(
                    diffusers.UNet2DModel(
                        **{**shape, "in_channels": 6},
                        out_channels=3,
                        add_attention=False,
                        down_block_types=("ResnetDownsampleBlock2D",) * 2,
                        up_block_types=("ResnetUpsampleBlock2D",) * 2,
                    ),
                    seed,
                )
                for name, seed in (("first", 4), ("last", 5))
            },
        }


@pytest.fixture(scope="module")
def folder(theirs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Karlo's files as its own setup lays them out."""
    folder: Path = tmp_path_factory.mktemp("karlo")
    decoder = unet_state(theirs["decoder"], "model")
    projection = theirs["text_proj"]
    for name, module in (
        ("clip_emb", projection.clip_image_embeddings_project_to_time_embeddings),
        ("text_feat_proj", projection.embedding_proj),
        ("clip_tok_proj", projection.clip_extra_context_tokens_proj),
        ("text_seq_proj.0", projection.encoder_hidden_states_proj),
        ("text_seq_proj.1", projection.text_encoder_hidden_states_norm),
    ):
        put(decoder, f"model.{name}", module)
    decoder["model.cf_param"] = projection.learned_classifier_free_guidance_embeddings.data
    upsampler = {
        **unet_state(theirs["first"], "model_first_steps"),
        **unet_state(theirs["last"], "model_last_step"),
    }
    for role, state in (
        ("prior", prior_state(theirs["prior"])),
        ("decoder", decoder),
        ("upsampler-256", upsampler),
    ):
        torch.save({"state_dict": state, "global_step": 1}, folder / FILES[role])
    torch.save(
        (theirs["prior"].clip_mean[0].data, theirs["prior"].clip_std[0].data), folder / "ViT-L-14_stats.th"
    )
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("ours") / "karlo"
    convert(folder, out)
    return out


def assert_near(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.inference_mode()
def test_prior(theirs: dict[str, Any], ours: Path) -> None:
    prior: Any = load_stage(ours / "prior")
    x, z_t, tokens, mask = (
        draw(2, WIDTH),
        draw(2, WIDTH) + 1,
        draw(2, CONTEXT, WIDTH),
        torch.ones(2, CONTEXT).bool(),
    )
    out = theirs["prior"](x, 500, z_t, tokens, mask).predicted_image_embedding
    assert_near(prior.network(x, torch.full((2,), 500), text_embed=z_t, tokens=tokens, mask=mask), out)
    assert_near(x * prior.std + prior.mean, theirs["prior"].post_process_latents(x))
    assert (prior.diffusion.config.predict, prior.diffusion.config.clamp) == ("x0", 10.0)


@torch.inference_mode()
def test_decoder(theirs: dict[str, Any], ours: Path) -> None:
    decoder: Any = load_stage(ours / "decoder")
    x, z_i, z_t, tokens = draw(2, 3, 16, 16), draw(2, WIDTH), draw(2, WIDTH) + 1, draw(2, CONTEXT, WIDTH)
    mask = torch.arange(CONTEXT) < torch.tensor([[CONTEXT], [3]])
    context, embed = theirs["text_proj"](
        image_embeddings=z_i,
        prompt_embeds=z_t,
        text_encoder_hidden_states=tokens,
        do_classifier_free_guidance=False,
    )
    seen = nn.functional.pad(mask, (4, 0), value=True)
    out = theirs["decoder"](x, 500, context, class_labels=embed, attention_mask=seen).sample
    cond = {"image_embed": z_i, "text_embed": z_t, "ids": mask.long(), "tokens": tokens, "mask": mask}
    assert_near(decoder.network(x, torch.full((2,), 500), **cond), out)
    assert decoder.diffusion.config.variance == "learned"


@torch.inference_mode()
def test_upsampler(theirs: dict[str, Any], ours: Path) -> None:
    upsampler: Any = load_stage(ours / "upsampler-256")
    x, low = draw(2, 3, 32, 32), draw(2, 3, 32, 32) / 2
    for t, part in ((166, "first"), (0, "last")):
        assert_near(
            upsampler.network(x, torch.full((2,), t), low=low, last_step=t == 0),
            theirs[part](torch.cat([x, low], dim=1), t).sample,
        )


def test_index(ours: Path) -> None:
    index = read_json(ours / "model_index.json")
    assert (index["clip"], index["upsamplers"]) == ("openclip:ViT-L-14/openai", ["upsampler-256"])
    assert read_json(ours / "decoder" / "config.json")["clip"] == index["clip"]


class Payload:
    """What runs when a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_bad_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.ckpt"
    for content, said in (
        ({"state_dict": {"cond_stage_model.weight": torch.zeros(1)}}, "none of Karlo's"),
        ({"state_dict": Payload()}, "refused"),
        ([1, 2], "expected names and tensors"),
    ):
        torch.save(content, one)
        with pytest.raises(CheckpointError, match=said):
            read_checkpoint(one)
    one.write_bytes((folder / FILES["prior"]).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(one)
    one.write_bytes((folder / FILES["prior"]).read_bytes())
    with pytest.raises(CheckpointError, match="statistics are missing"):
        read_checkpoint(one)
    one.write_bytes((folder / FILES["upsampler-256"]).read_bytes())
    with pytest.raises(CheckpointError, match="Karlo's prior"):
        convert(tmp_path, tmp_path / "out")
    convert(one, tmp_path / "stage")
    assert load_stage(tmp_path / "stage").config.kind == "upsampler"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.ckpt", "stage"]


def test_a_checkpoint_by_itself_is_a_pipeline_of_its_stage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    alone = Pipeline.from_pretrained(str(folder / FILES["upsampler-256"]), device="cpu")
    assert list(alone.stages) == ["upsampler-256"]
    one = tmp_path / "one.ckpt"
    torch.save({"state_dict": Payload()}, one)
    with pytest.raises(CheckpointError, match="refused"):
        Pipeline.from_pretrained(str(one), device="cpu")
    prior = folder / FILES["prior"]
    monkeypatch.setattr("unclip.pipeline.pipeline.load_clip", lambda ref: pytest.fail(f"asked for {ref}"))
    with pytest.raises(pytest.fail.Exception, match="asked for openclip:ViT-L-14/openai"):
        Pipeline.from_pretrained(str(prior), device="cpu")

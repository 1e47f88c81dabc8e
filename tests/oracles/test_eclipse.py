"""ECLIPSE's priors: against its own network, restated with diffusers' blocks and with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fake_hub import MODEL, serve
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.cli import cli
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.noise import SeededNoise
from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models.convert import convert, diffusers_keys, eclipse
from unclip.models.convert.diffusers_configs import PriorTransformer
from unclip.models.resolve import resolve
from unclip.pipeline import Pipeline
from unclip.stages import load_stage

declare_missing_schemas()
pytest.importorskip("diffusers")

from diffusers.models.attention import BasicTransformerBlock  # noqa: E402
from small_karlo import CONTEXT, HIGH, WIDTH, karlo_pipeline, seeded  # noqa: E402

PROMPTS = ["a red fox", "a hat"]  # of different lengths
LOW = 1e4  # what theirs subtracts from the scores of hidden positions


class Network(nn.Module):
    """A PriorTransformer without a timestep, its tensors named as in ECLIPSE's files."""

    def __init__(self, embed: int, layers: int = 2, heads: int = 2, head: int = 8, context: int = CONTEXT):
        super().__init__()
        width = heads * head
        self.heads = heads
        self.proj_in = nn.Linear(embed, width)
        self.embedding_proj = nn.Linear(embed, width)
        self.encoder_hidden_states_proj = nn.Linear(embed, width)
        self.positional_embedding = nn.Parameter(torch.zeros(1, context + 3, width))
        self.prd_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(width, heads, head, activation_fn="gelu", attention_bias=True)
            for _ in range(layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_clip_embeddings = nn.Linear(width, embed)
        self.clip_mean = nn.Parameter(torch.zeros(1, embed))
        self.clip_std = nn.Parameter(torch.zeros(1, embed))

    def forward(self, noise: Tensor, z_t: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """noise, z_t [B, D]; tokens [B, CONTEXT, D], padded; mask [B, CONTEXT] → z_i [B, D]."""
        rest = [self.embedding_proj(z_t), self.proj_in(noise), self.prd_embedding[0].expand(len(noise), -1)]
        x = torch.cat([self.encoder_hidden_states_proj(tokens), torch.stack(rest, dim=1)], dim=1)
        x = x + self.positional_embedding
        hidden = torch.cat([~mask, mask.new_zeros(len(mask), 3)], dim=1)[:, None].to(x)
        later = torch.ones(x.shape[1], x.shape[1]).triu(1).to(x)
        bias = (-LOW * (hidden + later)).repeat_interleave(self.heads, dim=0)
        for block in self.transformer_blocks:
            x = block(x, attention_mask=bias)
        return self.proj_to_clip_embeddings(self.norm_out(x)[:, -1])


def saved(folder: Path, network: Network, embed: int) -> Path:
    """The network's folder as ECLIPSE's repositories have it."""
    folder.mkdir(parents=True)
    config = {
        "_class_name": "PriorTransformer",
        "_diffusers_version": "0.20.2",
        "num_attention_heads": network.heads,
        "attention_head_dim": network.norm_out.weight.numel() // network.heads,
        "num_layers": len(network.transformer_blocks),
        "embedding_dim": embed,
        "num_embeddings": network.positional_embedding.shape[1] - 3,
        "additional_embeddings": 3,
        "dropout": 0.0,
        "norm_in_type": None,
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "added_emb_type": "prd",
        "embedding_proj_dim": None,
        "clip_embed_dim": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Network = seeded(Network(WIDTH), 9)
    return made


@pytest.fixture(scope="module")
def prior(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("eclipse") / "ECLIPSE_Karlo_Prior", network, WIDTH)


@pytest.fixture(scope="module")
def karlo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Karlo, converted."""
    folder = tmp_path_factory.mktemp("karlo")
    karlo_pipeline(folder / "words").save_pretrained(folder / "theirs")
    convert(folder / "theirs", folder / "my-karlo")
    return folder / "my-karlo"


@pytest.fixture
def joined(prior: Path, karlo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Karlo with ECLIPSE's prior, by the command line."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CliRunner().invoke(cli, ["assemble", str(karlo), str(prior), "-o", str(tmp_path / "joined")])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return tmp_path / "joined"


@torch.inference_mode()
def test_z_i_is_theirs(network: Network, joined: Path) -> None:
    ours = Pipeline.from_pretrained(str(joined), device="cpu", dtype=torch.float64)
    text = ours.clip.encode_text(PROMPTS)
    length = text.mask.shape[1]
    assert len(set(text.mask.sum(1).tolist())) == 2 and length < CONTEXT
    tokens = torch.randn(2, CONTEXT, WIDTH, dtype=torch.float64)  # theirs pads, and hides the padding
    tokens[:, :length] = text.tokens
    mask = torch.zeros(2, CONTEXT, dtype=torch.bool)
    mask[:, :length] = text.mask
    noise = SeededNoise([3, 8], "prior")(torch.empty(2, WIDTH)).double()
    with torch.random.fork_rng():
        exact = Network(WIDTH).double()
    exact.load_state_dict(network.state_dict())
    expected = exact(noise, text.embed, tokens, mask)
    z_i = ours.sample_prior(PROMPTS, seed=[3, 8])
    assert (z_i.double() - expected).abs().max() < 1e-6 < expected.std()
    generated = ours.generate(PROMPTS, seeds=[3, 8], options={"decoder": {"steps": 2}}, watermark=False)
    assert torch.equal(generated.image_embeds, z_i)


def test_the_whole_model_keeps_the_rest(joined: Path, karlo: Path) -> None:
    theirs, ours = read_json(karlo / "model_index.json"), read_json(joined / "model_index.json")
    assert {**ours, "name": theirs["name"]} == theirs
    assert read_json(joined / "prior/config.json")["kind"] == "prior_onepass"
    assert (
        read_json(joined / "prior/config.json")["clip"]
        == read_json(joined / "decoder/config.json")["clip"]
        == read_json(joined / "clip/config.json")["identity"]
    )
    for part in ("decoder", f"upsampler-{HIGH}", "clip/text_encoder"):
        assert (joined / part / "model.safetensors").read_bytes() == (
            karlo / part / "model.safetensors"
        ).read_bytes()


def test_single_stages_join_with_the_clip_of_their_model(
    joined: Path, prior: Path, karlo: Path, tmp_path: Path
) -> None:
    convert(prior, tmp_path / "my-prior")
    runs = [str(tmp_path / "my-prior"), f"{karlo}/decoder", f"{karlo}/upsampler-{HIGH}"]
    for i, more in enumerate(([], [f"{karlo}/clip"], ["--clip", str(karlo)])):
        done = CliRunner().invoke(cli, ["assemble", *runs, *more, "-o", str(tmp_path / f"again-{i}")])
        assert done.exit_code == 0, (more, done.output, done.exception)
        pictures = [
            Pipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float32)
            .generate("a hat", seed=1, size=8, options={"decoder": {"steps": 2}})
            .images[0]
            .tobytes()
            for folder in (joined, tmp_path / f"again-{i}")
        ]
        assert pictures[0] == pictures[1]


def test_guidance_is_off_and_can_be_asked_for(joined: Path) -> None:
    ours = Pipeline.from_pretrained(str(joined), device="cpu")
    assert ours.prior is not None
    assert (ours.prior.config.sampling.guidance, ours.prior.length(ours.prior.config.sampling)) == (1.0, 1)
    plain, negated = (ours.sample_prior("a hat", seed=1, negative=words) for words in ("", "a fox"))
    guided = ours.sample_prior("a hat", seed=1, options={"prior": {"guidance": 2.0}})
    assert torch.allclose(plain, negated, atol=1e-5) and not torch.allclose(plain, guided, atol=1e-2)


@pytest.mark.parametrize(("embed", "count"), [(768, 33_143_040), (1280, 34_193_152)])
def test_published_sizes(embed: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count of ECLIPSE's own class, its statistics of z_i included."""
    with torch.device("meta"):
        theirs = Network(embed, 10, 16, 32, context=77)
    assert sum(p.numel() for p in theirs.parameters()) == count
    monkeypatch.setattr(eclipse, "read_component", lambda folder: dict(theirs.state_dict()))
    monkeypatch.setattr(eclipse, "filled", lambda stage, name, weights, where: (stage, weights))
    config = PriorTransformer(
        num_attention_heads=16,
        attention_head_dim=32,
        num_layers=10,
        embedding_dim=embed,
        additional_embeddings=3,
    )
    stage: Any
    weights: Any
    stage, weights = eclipse.read_prior(Path("prior"), config)  # type: ignore[misc]
    shapes = {
        diffusers_keys.prior(name).removeprefix("prior."): tensor.shape[-2:]
        for name, tensor in stage.state_dict().items()
    }
    assert sum(tensor.numel() for tensor in stage.state_dict().values()) == count
    assert shapes == {name: tensor.shape[-2:] for name, tensor in weights.items()}


@pytest.mark.parametrize(("embed", "clip"), [(768, "openclip:ViT-L-14/openai"), (64, None)])
def test_a_repository_is_a_prior_with_the_clip_of_its_width(
    embed: int, clip: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = saved(tmp_path / "models--a--prior/snapshots/0123", Network(embed, 1), embed)
    found = resolve(str(folder))
    assert (found.roles, found.clip) == ({"prior": "prior"}, clip)
    assert found.folder.name.startswith("models--a--prior-")
    shown = CliRunner().invoke(cli, ["info", str(folder)]).output
    assert f"parameters of prior: {sum(p.numel() for p in Network(embed, 1).parameters()):,}" in shown


def test_a_hub_id_replaces_the_prior(
    prior: Path, joined: Path, karlo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(prior, tmp_path / "hub", monkeypatch):
        done = CliRunner().invoke(cli, ["assemble", str(karlo), MODEL, "-o", str(tmp_path / "again")])
        assert done.exit_code == 0, done.output + repr(done.exception)
    assert resolve(MODEL).roles == {"prior": "prior"}  # from the cache
    one, two = (folder / "prior/model.safetensors" for folder in (joined, tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()


def test_a_prior_of_another_width_is_refused(karlo: Path, tmp_path: Path) -> None:
    saved(tmp_path / "wide", Network(48), 48)
    convert(tmp_path / "wide", tmp_path / "my-wide")
    with pytest.raises(
        CheckpointError, match="prior has embed 48, but decoder has 32: they were trained for"
    ):
        cli.main(
            ["assemble", str(karlo), str(tmp_path / "my-wide"), "-o", str(tmp_path / "out")],
            standalone_mode=False,
        )
    assert not (tmp_path / "out").exists()
    saved(tmp_path / "karlo/prior", Network(48), 48)
    karlo_pipeline(tmp_path / "words").text_encoder.save_pretrained(tmp_path / "karlo/text_encoder")
    with pytest.raises(CheckpointError, match="text_encoder/config.json: is not the CLIP that the prior was"):
        resolve(str(tmp_path / "karlo/prior"))


def test_an_older_prior_of_ours_is_not_causal(prior: Path, tmp_path: Path) -> None:
    convert(prior, tmp_path / "out")
    stage: Any = load_stage(tmp_path / "out")
    assert stage.config.causal and not stage.Config(embed=8, token_width=8, width=8, depth=1, heads=1).causal

"""Stages: saving and loading, conditioning dropout, and sampling."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unclip.clip import Clip, Text
from unclip.diffusion.diffusion import DiffusionConfig
from unclip.diffusion.noise import SeededNoise
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.models.resolve import resolve
from unclip.nn.unet import UNetConfig
from unclip.stages import load_stage, stage_class
from unclip.stages.base import Stage
from unclip.stages.batch import Batch, drop_text, pad_to_same_length
from unclip.stages.clip import ClipStage
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder import Decoder, DecoderConfig, TextEncoderConfig
from unclip.stages.degradation import degrade, gaussian_blur
from unclip.stages.prior import Prior, PriorConfig
from unclip.stages.upsampler import Upsampler, UpsamplerConfig

D, W, L = 8, 12, 10  # widths of embeddings and token states, longest caption
UNET = UNetConfig(
    channels=32, multipliers=(1, 2), depth=1, attention=(1,), middle_attention=True, head_channels=32
)
PLAIN = UNetConfig(channels=32, multipliers=(1, 2), depth=1)
QUICK = SamplingConfig(steps=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(stage: Any) -> Any:
    """With every parameter random: fresh residual branches are zero and would hide what they do."""
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return stage.eval()


def prior(**config: Any) -> Prior:
    return lively(Prior(PriorConfig(embed=D, token_width=W, context=L, width=16, depth=2, heads=2, **config)))


def decoder(**config: Any) -> Decoder:
    return lively(
        Decoder(
            DecoderConfig(
                **{"size": 16, "embed": D, "token_width": W, "context_width": 16, "unet": UNET, **config}
            )
        )
    )


def upsampler(**config: Any) -> Upsampler:
    return lively(Upsampler(UpsamplerConfig(**{"size": 32, "unet": PLAIN, "degradation": "none", **config})))


class OtherClip:
    """As much of a CLIP as a stage looks at before it is trained with it."""

    identity, width, token_width, context = "tiny@123", D, W, L


MAKERS = {"prior": prior, "decoder": decoder, "upsampler": upsampler}


def text(*lengths: int, seed: int = 0) -> Text:
    """Random captions of these lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    n, longest = len(lengths), max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    tokens = torch.randn(n, longest, W, generator=generator)
    embed = torch.randn(n, D, generator=generator)
    return Text(
        [f"caption {i}" for i in range(n)],
        torch.randint(1, 40, (n, longest), generator=generator),
        mask,
        embed,
        tokens,
    )


def batch(n: int = 4) -> Batch:
    image = torch.rand(n, 3, 16, 16) * 2 - 1
    return Batch(tuple("abcd"[:n]), image, torch.randn(n, D), text(*[5, 3, 7, 2][:n]), text(2, seed=9))


def last(steps: Iterator[Any]) -> Tensor:
    *_, step = steps
    return step.x


# --- finding stages ---


@pytest.mark.parametrize("kind", ["prior", "decoder", "upsampler", "clip"])
def test_a_stage_is_named_by_its_file(kind: str) -> None:
    assert issubclass(stage_class(kind), Stage)
    assert stage_class(kind).__module__ == f"unclip.stages.{kind}"


@pytest.mark.parametrize(
    "kind",
    ["priorr", "base", "degradation", "", "no_package.stage", "json.decoder", "os.path.join", ".prior", ".."],
)
def test_unknown_stage_is_an_error_that_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"there are clip, decoder, decoder_kandinsky, decoder_stable, pixels, prior, prior_ar, prior_onepass, prior_vectors, upsampler$",
    ):
        stage_class(kind)


def test_ones_own_stage_is_found_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_stages"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(
        "from unclip.stages.prior import Prior\nclass Mine(Prior):\n    pass\nSTAGE = Mine\n"
    )
    (package / "broken.py").write_text("import a_module_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert stage_class("own_stages.mine").__name__ == "Mine"
    with pytest.raises(
        ModuleNotFoundError, match="a_module_nobody_has"
    ):  # its author must see the real cause
        stage_class("own_stages.broken")
    for name in [n for n in sys.modules if n.startswith("own_stages")]:
        del sys.modules[name]


# --- saving and loading ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 9}, "stage.embed is 8, but tiny@123 has 9"),
        ({"token_width": 9}, "stage.token_width is 12, but tiny@123 has 9"),
        ({"context": 11}, "the stage reads 10 tokens, but tiny@123 writes up to 11"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(change: dict[str, int], says: str) -> None:
    clip = OtherClip()
    vars(clip).update(change)
    own = TextEncoderConfig(vocabulary=20, context=L, width=16, depth=1, heads=2)
    for stage in (prior(), decoder(text_encoder=own)):
        with pytest.raises(ConfigError, match=says):
            stage.for_clip(cast("Clip", clip))
        assert stage.config.clip is None


@pytest.mark.parametrize("kind", MAKERS)
def test_saved_stage_loads_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    stage = MAKERS[kind]()
    stage.for_clip(cast("Clip", OtherClip()))
    stage.save(tmp_path)
    loaded = load_stage(tmp_path)
    assert type(loaded) is type(stage)
    assert loaded.config == stage.config
    assert loaded.config.clip == "tiny@123"
    assert not loaded.training
    state = loaded.state_dict()
    assert list(state) == list(stage.state_dict())
    for name, tensor in stage.state_dict().items():
        assert torch.equal(state[name], tensor), name
        assert state[name].device.type == "cpu"


@pytest.mark.parametrize("kind", MAKERS)
def test_loading_leaves_the_random_generator_alone(kind: str, tmp_path: Path) -> None:
    MAKERS[kind]().save(tmp_path)
    before = torch.get_rng_state()
    load_stage(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_in_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    stage = prior()
    stage.save(tmp_path, dtype)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    for name, tensor in load_stage(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stage.state_dict()[name].to(dtype).float())


def test_loaded_stage_can_be_trained_on(tmp_path: Path) -> None:
    prior().save(tmp_path)
    stage = load_stage(tmp_path)
    stage(batch()).mean().backward()
    assert all(p.grad is not None for p in stage.parameters())


NAME = "network.body.blocks.1.q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(NAME), f"tensor {NAME} is missing"),
        (
            lambda s: s.update({NAME: torch.zeros(3, 16)}),
            rf"tensor {NAME} has shape \(3, 16\), .* asks for \(16, 16\)",
        ),
        (
            lambda s: s.update({"network.more": torch.zeros(1)}),
            "tensor network.more belongs to another architecture",
        ),
    ],
    ids=["missing", "mis-shaped", "extra"],
)
def test_wrong_tensor_is_an_error_that_names_it(change: Any, message: str, tmp_path: Path) -> None:
    prior().save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_stage(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_damaged_weights_are_an_error(keep: int, tmp_path: Path) -> None:
    prior().save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        load_stage(tmp_path)


def test_missing_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_stage(tmp_path)
    prior().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_stage(tmp_path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "no kind of stage"),
        ('{"kind": 3}', "no kind of stage"),
        ('{"kind": "prior"}', "embed: Field required"),
    ],
)
def test_wrong_config_file_is_an_error(written: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(CheckpointError, match=message):
        load_stage(tmp_path)


def test_unknown_key_of_a_config_is_named(tmp_path: Path) -> None:
    prior().save(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tree, "depthh": 3}))
    with pytest.raises(CheckpointError, match="depthh: no such key; did you mean depth"):
        load_stage(tmp_path)


def test_a_run_stands_for_its_newest_complete_checkpoint(tmp_path: Path) -> None:
    for name, complete in (("step-00000010", True), ("step-00000200", True), ("step-00003000", False)):
        (tmp_path / name).mkdir()
        if complete:
            (tmp_path / name / "progress.json").write_text("{}")
            (tmp_path / name / "config.json").write_text('{"kind": "pixels"}')
    assert resolve(str(tmp_path)).stage("pixels") == tmp_path / "step-00000200"
    with pytest.raises(CheckpointError, match="neither a saved stage nor a run"):
        resolve(str(tmp_path / "step-00003000"))


# --- the loss ---


@pytest.mark.parametrize("kind", MAKERS)
def test_calling_a_stage_is_its_loss_per_example(kind: str) -> None:
    loss = MAKERS[kind]()(batch())
    assert loss.shape == (4,)
    assert loss.isfinite().all()


@pytest.mark.parametrize("drop", [0.0, 1.0])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_parameter_is_in_every_steps_graph(kind: str, drop: float) -> None:
    config = {
        "prior": {"text_drop": drop},
        "decoder": {"text_drop": drop, "embed_drop": drop},
        "upsampler": {},
    }[kind]
    stage = MAKERS[kind](**config)
    stage(batch()).mean().backward()
    assert [name for name, p in stage.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["prior", "decoder"])
def test_dropped_text_does_not_reach_the_loss(kind: str) -> None:
    first = batch()
    second = Batch(first.captions, first.image, first.image_embed, text(5, 3, 7, 2, seed=5), first.null)
    for drop, alike in ((1.0, True), (0.0, False)):
        stage, losses = MAKERS[kind](text_drop=drop), []
        for one in (first, second):
            torch.manual_seed(1)
            losses.append(stage(one))
        assert torch.allclose(*losses) == alike


def test_dropped_embedding_does_not_reach_the_decoders_loss() -> None:
    first = batch()
    second = Batch(first.captions, first.image, torch.randn(4, D), first.text, first.null)
    for drop, alike in ((1.0, True), (0.0, False)):
        stage, losses = decoder(embed_drop=drop), []
        for one in (first, second):
            torch.manual_seed(1)
            losses.append(stage(one))
        assert torch.allclose(*losses) == alike


def test_decoder_drops_embedding_and_text_independently() -> None:
    n, stage, seen = 2000, decoder(embed_drop=0.5, text_drop=0.5), {}

    def network(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        seen.update(cond)
        return torch.zeros(len(x), 6, *x.shape[2:])

    del stage.network
    stage.network = network
    with torch.no_grad():
        stage.null_embed.zero_()
    stage(Batch(("",) * n, torch.zeros(n, 3, 1, 1), torch.ones(n, D), text(1).repeat(n), text(1, seed=9)))
    no_embed = (seen["image_embed"] == 0).all(1)
    no_text = (seen["text_embed"] == text(1, seed=9).embed).all(1)
    for a in (no_embed, ~no_embed):
        for b in (no_text, ~no_text):
            assert (a & b).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_dropping_replaces_whole_rows_by_the_empty_caption() -> None:
    full, null = text(4, 3), text(2, seed=9)
    dropped = drop_text(full, null, torch.tensor([True, False]))
    for field in ("ids", "mask", "embed", "tokens"):
        mine, theirs, value = getattr(full, field), getattr(null, field), getattr(dropped, field)
        assert torch.equal(value[0], mine[0])
        assert torch.equal(value[1][:2] if field != "embed" else value[1], theirs[0])
    assert dropped.mask[1].tolist() == [True, True, False, False]


def test_longer_empty_caption_is_fine_too() -> None:
    dropped = drop_text(text(2, 1), text(5, seed=9), torch.tensor([True, False]))
    assert dropped.mask.tolist() == [[True, True, False, False, False], [True] * 5]
    a, b = pad_to_same_length(text(2), text(5))
    assert a.tokens.shape == b.tokens.shape == (1, 5, W)


def test_batch_moves_what_it_has() -> None:
    moved = Batch(("a",), image=torch.zeros(1, 3, 4, 4)).to("meta")
    assert moved.image is not None and moved.image.device.type == "meta"
    assert moved.text is None and moved.captions == ("a",)


# --- the prior ---


class Fixed(nn.Module):
    """A network that always answers the same."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.answer.expand_as(x)


def test_whitening_is_measured_on_the_data() -> None:
    stage = prior()
    embeds = torch.randn(500, D) * torch.linspace(0.1, 3, D) + 2
    stage.calibrate(Batch(image_embed=part) for part in embeds.split(100))
    torch.testing.assert_close(stage.mean, embeds.mean(0))
    torch.testing.assert_close(stage.std, embeds.std(0))


def test_whitening_survives_a_constant_dimension() -> None:
    stage = prior()
    embeds = torch.randn(10, D)
    embeds[:, 0] = 1
    stage.calibrate([Batch(image_embed=embeds)])
    assert stage(batch()).isfinite().all()


def test_fixed_scale_is_not_measured() -> None:
    stage = prior(normalise="scale", scale=17.2)
    stage.calibrate([Batch(image_embed=torch.randn(50, D))])
    torch.testing.assert_close(1 / stage.std, torch.full((D,), 17.2))
    assert stage.mean.abs().max() == 0


def test_statistics_travel_with_the_weights(tmp_path: Path) -> None:
    stage = prior()
    stage.calibrate([Batch(image_embed=torch.randn(50, D))])
    stage.save(tmp_path)
    assert torch.equal(Prior.load(tmp_path).std, stage.std)


def test_training_and_sampling_share_one_scale() -> None:
    stage = prior(text_drop=0.0)
    stage.calibrate([Batch(image_embed=torch.randn(50, D) * 3 + 1)])
    wanted = torch.randn(D)
    stage.network = Fixed((wanted - stage.mean) / stage.std)
    torch.testing.assert_close(
        last(stage.sample(text(3), text(2), QUICK, SeededNoise([1])))[0], wanted, rtol=1e-4, atol=1e-4
    )
    exact = Batch(("a",), None, wanted[None], text(3), text(2))
    torch.testing.assert_close(stage(exact), torch.zeros(1), rtol=0, atol=1e-8)


def test_a_priors_x0_variance_of_gaussian_data_is_the_closed_form(tmp_path: Path) -> None:
    # A network that knows N(0, 1) per dimension says alpha · x_t; what it leaves open of z_i is sigma².
    stage = Prior(PriorConfig(embed=D, token_width=W, context=L, width=16, depth=1, heads=2))

    class Best(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
            return stage.diffusion.schedule.alpha[t].float()[:, None] * x

    network, stage.network = stage.network, Best()
    seeds = torch.arange(4)
    data = (
        replace(batch(), image_embed=0.3 + 2 * torch.randn(4, D), seeds=seeds + 4 * i) for i in range(400)
    )
    stage.mean.fill_(0.3)
    stage.std.fill_(2.0)
    stage.measure_x0_variance(data, times=5)
    sigma = stage.diffusion.schedule.sigma
    times = stage.diffusion.schedule.grid(5)[::-1]
    assert stage.config.diffusion.x0_variance == pytest.approx(
        [sigma[t].item() ** 2 for t in times], abs=0.05
    )
    table = stage.diffusion.schedule.x0_variance
    assert table is not None and table[times].tolist() == pytest.approx(
        stage.config.diffusion.x0_variance, abs=0.01
    )
    stage.network = network
    stage.save(tmp_path)
    assert Prior.load(tmp_path).config.diffusion.x0_variance == stage.config.diffusion.x0_variance
    assert prior_sample(stage, sampler="analytic_dpm").shape == (2, D)


def prior_sample(stage: Prior, **changes: Any) -> Tensor:
    options = stage.config.sampling.updated({"steps": 3, **changes})
    return last(stage.sample(text(3, 2), text(2, 2), options, SeededNoise([1, 2], "prior")))


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_prior_gives_one_embedding_per_caption(candidates: int, sampler: str) -> None:
    options = SamplingConfig(steps=3, candidates=candidates, guidance=2.0, sampler=sampler)
    steps = list(prior().sample(text(4, 6), text(2, 2, seed=9), options, SeededNoise([1, 2])))
    assert len(steps) == 3
    assert all(s.x.shape == s.x0.shape == (2, D) for s in steps)
    assert steps[-1].x.isfinite().all()


def test_of_several_draws_the_one_nearest_to_the_caption_is_kept() -> None:
    stage, captions = prior(), text(4, 6, 3)
    scores = []
    for n in (1, 2, 4, 8):  # more candidates contain the fewer: the score can only rise
        options = SamplingConfig(steps=3, candidates=n)
        embeds = last(stage.sample(captions, text(2, 2, 2, seed=9), options, SeededNoise([1, 2, 3])))
        scores.append((embeds * captions.embed).sum(1))
    for fewer, more in pairwise(scores):
        assert (more >= fewer - 1e-4).all()
    assert (scores[-1] > scores[0] + 1e-3).any()


def test_a_captions_embedding_does_not_depend_on_its_neighbours() -> None:
    stage, options = prior(), SamplingConfig(steps=3, candidates=2, guidance=2.0)
    captions, null = text(4, L), text(2, 2, seed=9)
    together = last(stage.sample(captions, null, options, SeededNoise([1, 2])))
    cut = Text(
        captions.captions[:1],
        captions.ids[:1, :4],
        captions.mask[:1, :4],
        captions.embed[:1],
        captions.tokens[:1, :4],
    )
    alone = last(stage.sample(cut, null.rows(0, 1), options, SeededNoise([1])))
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


def test_prior_reads_tokens_embedding_and_time() -> None:
    network, one = prior().network, text(5)
    x, t = torch.randn(1, D), torch.tensor([300])
    cond = {"text_embed": one.embed, "tokens": one.tokens, "mask": one.mask}
    base = network(x, t, **cond)
    for other in (
        network(x + 1, t, **cond),
        network(x, t + 100, **cond),
        network(x, t, **{**cond, "text_embed": -one.embed}),
        network(x, t, **{**cond, "tokens": one.tokens.flip(1)}),
    ):
        assert not torch.allclose(base, other, atol=1e-4)


# --- the decoder ---


@pytest.mark.parametrize("variance", ["fixed_small", "learned"])
@pytest.mark.parametrize("own_text", [False, True])
def test_decoder_paints_pictures_of_its_size(variance: str, own_text: bool) -> None:
    encoder = TextEncoderConfig(vocabulary=40, context=L, width=16, depth=1, heads=2) if own_text else None
    stage = decoder(diffusion=DiffusionConfig(predict="v", variance=variance), text_encoder=encoder)
    options = SamplingConfig(steps=2, guidance=3.0)
    out = last(stage.sample(torch.randn(2, D), text(3, 5), text(2, 2, seed=9), options, SeededNoise([1, 2])))
    assert out.shape == (2, 3, 16, 16)
    assert out.abs().max() <= 1 + 1e-5


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    stage, captions, null, embeds = decoder(), text(3, L), text(2, 2, seed=9), torch.randn(2, D)
    options = SamplingConfig(steps=3, guidance=2.0)
    together = last(stage.sample(embeds, captions, null, options, SeededNoise([5, 6])))
    cut = Text(
        captions.captions[:1],
        captions.ids[:1, :3],
        captions.mask[:1, :3],
        captions.embed[:1],
        captions.tokens[:1, :3],
    )
    alone = last(stage.sample(embeds[:1], cut, null.rows(0, 1), options, SeededNoise([5])))
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


def test_decoder_is_steered_by_embedding_and_caption() -> None:
    stage, captions, null, embed = decoder(), text(4), text(2, seed=9), torch.randn(1, D)

    def paint(embed: Tensor, words: Text, guidance: float = 1.0) -> Tensor:
        return last(
            stage.sample(embed, words, null, SamplingConfig(steps=2, guidance=guidance), SeededNoise([5]))
        )

    base = paint(embed, captions)
    assert torch.equal(base, paint(embed, captions))
    for other in (paint(-embed, captions), paint(embed, text(4, seed=3)), paint(embed, captions, 4.0)):
        assert not torch.allclose(base, other, atol=1e-3)


def test_guidance_leads_away_from_the_trained_null() -> None:
    stage, captions, options = decoder(), text(4), SamplingConfig(steps=2, guidance=4.0)
    with torch.no_grad():
        stage.null_embed.normal_()
    # Where condition and null are one, guidance of any scale has nothing to lead away from.
    own = stage.null_embed.detach()[None]
    guided, plain = (
        last(stage.sample(own, captions, captions, o, SeededNoise([5]))) for o in (options, QUICK)
    )
    torch.testing.assert_close(guided, plain, rtol=1e-3, atol=1e-3)


# --- the upsampler ---


@pytest.mark.parametrize("patch", [1, 2])
def test_upsampler_gives_its_own_size_or_the_one_asked_for(patch: int) -> None:
    stage = upsampler(unet=UNetConfig(channels=32, multipliers=(1, 2), depth=1, patch=patch))
    low = torch.rand(2, 3, 8, 8) * 2 - 1
    assert last(stage.sample(low, QUICK, SeededNoise([1, 2]))).shape == (2, 3, 32, 32)
    assert last(stage.sample(low, QUICK, SeededNoise([1, 2]), size=48)).shape == (2, 3, 48, 48)


def test_upsampler_looks_at_the_small_picture() -> None:
    stage, low = upsampler(), torch.rand(1, 3, 8, 8) * 2 - 1
    a, b = (last(stage.sample(x, QUICK, SeededNoise([1]))) for x in (low, -low))
    assert not torch.allclose(a, b, atol=1e-3)


def test_upsampler_trains_on_crops() -> None:
    stage = upsampler(size=64, crop_fraction=0.25)
    assert (stage.size, stage.crop) == (64, 16)


def test_upsampler_is_conditioned_on_the_reduced_picture() -> None:
    stage, seen = upsampler(), {}

    def network(x: Tensor, t: Tensor, *, low: Tensor) -> Tensor:
        seen["low"] = low
        return x

    del stage.network
    stage.network = network
    image = F.interpolate(torch.rand(2, 3, 4, 4), (16, 16), mode="nearest") * 2 - 1
    stage(Batch(("a", "b"), image))
    assert seen["low"].shape == image.shape
    torch.testing.assert_close(seen["low"].mean((2, 3)), image.mean((2, 3)), rtol=0, atol=0.1)
    assert seen["low"].diff(dim=3).abs().max() < image.diff(dim=3).abs().max()  # blurred by the round trip


# --- noise conditioning augmentation ---


def test_upsampler_is_told_the_level_of_the_noise_on_its_input() -> None:
    stage = upsampler(noise_level=0.5)
    seen: list[dict[str, Tensor]] = []

    def network(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        seen.append(cond)
        return x

    del stage.network
    stage.network = network
    image = torch.zeros(64, 3, 32, 32)  # so what is left of the input is its noise
    stage(Batch(("",) * 64, image, seeds=torch.arange(64)))
    levels = seen[0]["level"]
    assert 0 <= levels.min() < 0.1 and 0.4 < levels.max() < 0.5
    torch.testing.assert_close(seen[0]["low"].flatten(1).std(1), levels, rtol=0.05, atol=0.01)


def test_noise_of_the_input_is_the_seeds_and_none_at_level_zero() -> None:
    stage = upsampler(noise_level=0.5)
    with torch.no_grad():
        stage.network.level.linear_2.weight.normal_()
    low = torch.rand(3, 3, 8, 8) * 2 - 1
    noisy = SamplingConfig(steps=2, sampler="ddim", noise_level=0.3)
    clean = noisy.updated({"noise_level": 0})
    three = last(stage.sample(low, noisy, SeededNoise([1, 2, 3])))
    torch.testing.assert_close(last(stage.sample(low[1:2], noisy, SeededNoise([2]))), three[1:2])
    assert not torch.allclose(three, last(stage.sample(low, clean, SeededNoise([1, 2, 3]))), atol=1e-3)


def test_augmentation_starts_from_the_plain_upsampler() -> None:
    plain = upsampler()
    augmented = Upsampler(plain.config.model_copy(update={"noise_level": 0.5}))
    augmented.load_state_dict(augmented.adapt_state_dict(plain.state_dict()))
    low, options = torch.rand(2, 3, 8, 8) * 2 - 1, SamplingConfig(steps=2, sampler="ddim")
    a, b = (last(one.sample(low, options, SeededNoise([1, 2]))) for one in (plain, augmented))
    torch.testing.assert_close(a, b)
    plain.load_state_dict(plain.adapt_state_dict(augmented.state_dict()))  # and back


def test_a_noise_level_beyond_the_training_is_refused() -> None:
    for stage, level in ((upsampler(), 0.1), (upsampler(noise_level=0.2), 0.3)):
        options = SamplingConfig(steps=1, sampler="ddim", noise_level=level)
        with pytest.raises(RequestError, match=r"upsampler-32: noise_level 0.\d is above 0"):
            stage.sample(torch.zeros(1, 3, 8, 8), options, SeededNoise([1]))
    with pytest.raises(ValueError, match=r"sampling.noise_level.*must not exceed noise_level 0.2"):
        upsampler(noise_level=0.2, sampling=SamplingConfig(noise_level=0.3))


# --- degradations ---


@pytest.mark.parametrize("kind", ["none", "blur", "bsr"])
@pytest.mark.parametrize("side", [4, 8, 64])
def test_corrupted_pictures_keep_shape_and_range(kind: Any, side: int) -> None:
    low = torch.rand(12, 3, side, side) * 2 - 1
    out = degrade(low, kind, range(len(low)))
    assert out.shape == low.shape
    assert out.dtype == low.dtype
    assert out.abs().max() <= 1
    assert out.isfinite().all()
    assert torch.equal(out, low) == (kind == "none")


def test_corruption_follows_each_pictures_seed() -> None:
    low, outs = torch.rand(8, 3, 16, 16), []
    for seed in (1, 1, 2):
        outs.append(degrade(low, "bsr", range(seed, seed + len(low))))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_half_of_the_pictures_are_blurred() -> None:
    low = torch.rand(200, 3, 8, 8)
    untouched = (degrade(low, "blur", range(200)) == low).flatten(1).all(1).float().mean()
    assert 0.35 < untouched < 0.65


def test_corrupted_pictures_stay_recognisable() -> None:
    low = F.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, (32, 32), mode="bicubic").clamp(-1, 1)
    assert (degrade(low, "bsr", range(8)) - low).abs().mean() < 0.15


def test_blur_keeps_flat_areas_and_the_mean_and_smooths_edges() -> None:
    flat = torch.full((3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 0.6, 1.0), flat)
    dot = torch.zeros(3, 9, 9)
    dot[:, 4, 4] = 1
    blurred = gaussian_blur(dot, 0.6, 0.6)
    torch.testing.assert_close(blurred.sum((1, 2)), torch.ones(3))
    assert blurred[0, 4, 4] == blurred.max() < 1
    torch.testing.assert_close(blurred, blurred.transpose(1, 2))


def test_blur_is_wider_along_the_axis_of_the_larger_deviation() -> None:
    dot = torch.zeros(3, 9, 9)
    dot[:, 4, 4] = 1
    blurred = gaussian_blur(dot, sigma_x=1.0, sigma_y=0.3)
    assert blurred[0, 4, 5] > blurred[0, 5, 4]


# --- options ---


def test_options_change_one_by_one() -> None:
    assert SamplingConfig(steps=9).updated({"guidance": 2}) == SamplingConfig(steps=9, guidance=2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1001},
        {"steps": "many"},
        {"guidance": -1},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"eta": 2},
        {"candidates": 0},
        {"rescale": 1.5},
        {"stepps": 3},
    ],
)
def test_wrong_option_is_a_request_error_that_names_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        SamplingConfig().updated(wrong)


def test_unknown_sampler_is_found_out_before_any_work() -> None:
    with pytest.raises(RequestError, match="no sampler 'euler'"):
        upsampler().sample(torch.zeros(1, 3, 8, 8), SamplingConfig(sampler="euler"), SeededNoise([1]))


def test_more_steps_than_times_is_an_error() -> None:
    stage = upsampler(diffusion=DiffusionConfig(times=10))
    with pytest.raises(ConfigError, match="11 sampling steps: must be between 1 and 10"):
        stage.sample(torch.zeros(1, 3, 8, 8), SamplingConfig(steps=11), SeededNoise([1]))


@pytest.mark.parametrize(
    ("maker", "wrong"),
    [(prior, {"text_drop": 1.5}), (decoder, {"embed_drop": -1}), (upsampler, {"crop_fraction": 0})],
)
def test_impossible_stage_config_is_refused(maker: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        maker(**wrong)


# --- the clip stage ---


@pytest.fixture(scope="module")
def clip_stage(tiny_clip_folder: Path) -> ClipStage:
    return ClipStage.load(tiny_clip_folder)


def test_clip_stage_loss_is_the_symmetric_contrastive_one(clip_stage: ClipStage) -> None:
    captions, image = ("a red fox", "a blue owl in the snow", "a cat"), torch.rand(3, 3, 32, 32) * 2 - 1
    loss = clip_stage(Batch(captions, image))
    assert loss.shape == (3,)
    from unclip.clip.openclip import OpenClip

    clip = OpenClip(clip_stage.model, clip_stage.tokenizer, "x", clip_stage.preprocess)
    z_t, z_i = (F.normalize(z, dim=-1) for z in (clip.encode_text(captions).embed, clip.encode_image(image)))
    scores = clip_stage.model.logit_scale.exp() * z_i @ z_t.T
    expected = -(scores.log_softmax(1) + scores.log_softmax(0)).diagonal() / 2
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


def test_one_pair_alone_has_nothing_to_tell_apart(clip_stage: ClipStage) -> None:
    assert clip_stage(Batch(("a cat",), torch.zeros(1, 3, 32, 32))).item() == pytest.approx(0, abs=1e-6)


def test_identity_names_the_weights_and_outlives_half_precision(
    clip_stage: ClipStage, tmp_path: Path
) -> None:
    identity = clip_stage.config.clip
    assert identity is not None and identity.startswith("tiny-clip@")
    for dtype in (torch.float16, None):
        clip_stage.save(tmp_path, dtype)
        assert ClipStage.load(tmp_path).config.clip == identity
    torch.manual_seed(1)
    fresh = ClipStage(clip_stage.config.model_copy(update={"clip": None}))
    fresh.save(tmp_path)
    assert ClipStage.load(tmp_path).config.clip != identity

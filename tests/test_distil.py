"""Distillation: its targets, its runs, and models that hold a distilled decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_lora
import torch
import yaml
from click.testing import CliRunner
from diffusers import DDIMScheduler
from tiny_runs import UPSAMPLER_UNET, assert_same_bits
from torch import Tensor

from unclip.cli import cli
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig, Guidance
from unclip.diffusion.distillation import Teacher
from unclip.errors import RequestError, UnclipError
from unclip.models.assemble import assemble
from unclip.pipeline import Pipeline
from unclip.stages import load_stage
from unclip.stages.config import DistilledConfig
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler, UpsamplerConfig
from unclip.train.config import RunConfig, read_run
from unclip.train.loop import train

STEPS = 4
DIFFUSION = Diffusion(DiffusionConfig(predict="v", clamp=None))


def network(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    return torch.tanh(x * (1 + t.view(-1, 1, 1, 1) / 1000)) + shift


def teacher(substeps: int, guidance: float = 1.0, steps: int = STEPS) -> Teacher:
    return Teacher(
        lambda cond, null: DIFFUSION.denoiser(network, cond, null, Guidance(guidance)),
        DIFFUSION.schedule,
        steps,
        substeps,
    )


def example(rows: int = 6) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)
    x0, eps = torch.randn(2, rows, 3, 4, 4)
    step = torch.arange(rows) % STEPS
    cond = {"shift": 0.1 * torch.randn(rows, 1, 1, 1)}
    return x0, eps, step, cond, {"shift": torch.zeros(rows, 1, 1, 1)}


# --- targets ---


@pytest.mark.parametrize("substeps", [1, 2, 3])
def test_the_target_has_the_same_noised_data(substeps: int) -> None:
    x0, eps, step, cond, _ = example()
    target = teacher(substeps).target(x0, eps, step, cond, None)
    alpha, sigma = DIFFUSION.schedule.coefficients(target.t, x0)
    assert target.t.tolist() == [DIFFUSION.schedule.grid(STEPS)[i] for i in step.tolist()]
    torch.testing.assert_close(
        alpha * target.x0 + sigma * target.eps, alpha * x0 + sigma * eps, rtol=0, atol=1e-5
    )


def test_one_substep_is_the_guided_prediction() -> None:
    x0, eps, step, cond, null = example()
    target = teacher(1, guidance=2.5).target(x0, eps, step, cond, null)
    for row, i in enumerate(step.tolist()):
        alpha, sigma = DIFFUSION.schedule.at(t := DIFFUSION.schedule.grid(STEPS)[i])
        one = slice(row, row + 1)
        denoise = DIFFUSION.denoiser(
            network, {"shift": cond["shift"][one]}, {"shift": null["shift"][one]}, Guidance(2.5)
        )
        expected = denoise(alpha * x0[one] + sigma * eps[one], t).x0
        torch.testing.assert_close(target.x0[one], expected, rtol=1e-4, atol=1e-4)


def test_a_students_step_ends_where_diffusers_ddim_does() -> None:
    oracle = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    oracle.set_timesteps(25)  # steps of 40
    torch.manual_seed(2)
    start, shift = torch.randn(2, 3, 4, 4), torch.zeros(2, 1, 1, 1)
    x = start
    for t in (480, 440):
        x = oracle.step(network(x, torch.full((2,), t), shift), t, x).prev_sample
    taught = teacher(2)
    x0 = taught._x0(taught.denoiser({"shift": shift}, None), start, 480, 400)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = DIFFUSION.schedule.at(480), DIFFUSION.schedule.at(400)
    torch.testing.assert_close(
        alpha_s * x0 + sigma_s * (start - alpha_t * x0) / sigma_t, x, rtol=0, atol=1e-4
    )


def test_a_row_does_not_depend_on_its_batch() -> None:
    x0, eps, step, cond, null = example()
    whole = teacher(2, guidance=2.0).target(x0, eps, step, cond, null)
    some = torch.tensor([4, 1])
    parts = teacher(2, guidance=2.0).target(
        x0[some], eps[some], step[some], {"shift": cond["shift"][some]}, {"shift": null["shift"][some]}
    )
    torch.testing.assert_close(parts.x0, whole.x0[some], rtol=1e-5, atol=1e-5)


# --- runs ---


@pytest.fixture
def config(tmp_path: Path, train_shards: str, tiny_model: Path) -> Any:
    """Writes a run that distils a stage of the tiny model, and returns its file."""

    def write(stage: str = "decoder", **keys: Any) -> Path:
        tree = {
            "name": "fast",
            "distill": {"teacher": str(tiny_model / stage), "steps": STEPS, "substeps": 2},
            "data": {"shards": train_shards, "batch": 4, "workers": 0, "shuffle": 10},
            "optim": {"lr": 0.001, "warmup": 2},
            "train": {
                "steps": 4,
                "precision": "no",
                "save_every": 2,
                "sample_every": 0,
                "keep": 5,
                "ema": 0.5,
            },
            **keys,
        }
        (path := tmp_path / "fast.yaml").write_text(yaml.safe_dump(tree))
        return path

    return write


def test_a_run_takes_what_it_leaves_out_from_the_teacher(config: Any, tiny_model: Path) -> None:
    run = read_run(config())
    assert run.stage.kind == "decoder" and run.init == str(tiny_model / "decoder")
    assert run.clip == str(tiny_model / "clip")
    sampling = run.stage.sampling
    assert (sampling.steps, sampling.sampler, sampling.guidance) == (STEPS, "ddim", 1.0)
    assert getattr(run.stage, "distilled") == DistilledConfig(steps=STEPS, guidance=2.0)  # noqa: B009
    again = RunConfig.model_validate(run.model_dump(mode="json"))
    assert again == run


def test_a_student_is_an_ordinary_stage_and_a_resumed_run_the_same(config: Any, tmp_path: Path) -> None:
    path = config()
    whole = train(read_run(path), tmp_path / "whole", progress=False)
    train(read_run(path, ["train.steps=2"]), tmp_path / "parts", progress=False)
    parts = train(read_run(path), tmp_path / "parts", progress=False)
    assert_same_bits(whole, parts)
    student = load_stage(whole)
    assert isinstance(student, Decoder) and student.distilled == DistilledConfig(steps=STEPS, guidance=2.0)
    before = load_stage(Path(read_run(path).init or ""))
    assert torch.equal(student.null_embed, before.null_embed)  # type: ignore[arg-type]
    assert not torch.equal(student.network.unet.conv_in.weight, before.network.unet.conv_in.weight)  # type: ignore[union-attr]


def test_a_student_learns_the_guided_prediction(config: Any, tmp_path: Path) -> None:
    path = config(
        optim={"lr": 0.003, "warmup": 1},
        distill={**yaml.safe_load(config().read_text())["distill"], "substeps": 1, "guidance": 4.0},
        train={"steps": 40, "precision": "no", "sample_every": 0, "log_every": 1, "ema": 0.5},
    )
    train(read_run(path), tmp_path / "run", progress=False)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_the_last_step_expert_is_distilled_as_well(config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expert = Upsampler(
        UpsamplerConfig(size=64, unet=UPSAMPLER_UNET, expert=True, diffusion=DiffusionConfig(predict="eps"))
    )
    (folder := tmp_path / "teacher").mkdir()
    expert.save(folder)
    run = read_run(config(), [f"distill.teacher={folder}", "stage.crop_fraction=0.5"])
    assert (run.stage.expert, run.stage.diffusion.predict) == (False, "v")  # type: ignore[attr-defined]
    student = load_stage(train(run, tmp_path / "run", progress=False))
    assert isinstance(student, Upsampler) and not student.expert
    assert student.distilled == DistilledConfig(steps=STEPS)


@pytest.mark.parametrize(
    ("stage", "overrides", "says"),
    [
        ("prior", [], "only a decoder or an upsampler can be distilled; .* is a prior"),
        ("", [], "is a whole model; name a stage"),
        ("nothing", [], "nothing"),
        ("decoder", ["distill.guidanc=2"], "no such key; did you mean guidance"),
        ("decoder", ["distill.steps=0"], "steps: .* greater than or equal to 1"),
        ("decoder", ["stage.diffusion.predict=eps"], "eps cannot make few steps"),
        ("decoder", ["stage.diffusion.schedule=linear"], "is linear, the teacher's is cosine"),
        ("decoder", ["stage.unet.channels=64"], "unet.channels is 32 there, 64 here"),
        ("decoder", ["stage.nope=1"], "stage.nope: no such key"),
        ("upsampler-256", ["distill.guidance=2"], "an upsampler has no guidance"),
    ],
)
def test_mistakes_are_named(stage: str, overrides: list[str], says: str, config: Any, tmp_path: Path) -> None:
    with pytest.raises(UnclipError, match=says) as error:
        train(read_run(config(stage), overrides), tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)


def test_the_command_needs_a_teacher(config: Any, tmp_path: Path) -> None:
    tree = yaml.safe_load(config().read_text())
    (path := tmp_path / "plain.yaml").write_text(yaml.safe_dump({**tree, "distill": None}))
    done = CliRunner().invoke(cli, ["distill", str(path)])
    assert "distill: the block is missing" in str(done.exception)
    shown = CliRunner().invoke(cli, ["distill", str(config()), "--dry-run", "--devices", "2"])
    assert shown.exit_code == 0 and "guidance: 2.0" in shown.output, shown.output


# --- models ---


@pytest.fixture(scope="module")
def student(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distilled decoder of the tiny model, with other weights."""
    decoder = load_stage(tiny_model / "decoder")
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(0.9)
    sampling = {"steps": STEPS, "sampler": "ddim", "guidance": 1.0}
    tree = decoder.config.model_dump() | {"distilled": {"steps": STEPS, "guidance": 2.0}}
    decoder.config = type(decoder.config).model_validate(tree | {"sampling": sampling})
    decoder.save(folder := tmp_path_factory.mktemp("student"))
    return folder


@pytest.fixture(scope="module")
def both(tiny_model: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with both decoders; the distilled one is given last."""
    parts = [tiny_model / name for name in ("clip", "prior", "decoder", "upsampler-256")]
    assemble([*parts, student], out := tmp_path_factory.mktemp("both") / "both")
    return out


def steps_of(pipe: Pipeline, verb: str, *arguments: Any, **options: Any) -> dict[str, int]:
    """The number of steps that a call takes, by stage."""
    counts: dict[str, int] = {}

    def count(role: str, number: int, *_: Any) -> None:
        counts[role] = number

    getattr(pipe, verb)(*arguments, on_step=count, **options)
    return counts


def test_a_model_holds_both_decoders(both: Path, tiny_model: Path, student: Path) -> None:
    index = json.loads((both / "model_index.json").read_text())
    assert (index["decoder"], index["undistilled"]) == ("decoder", "decoder-slow")
    pipe = Pipeline.from_pretrained(str(both), device="cpu")
    picture = pipe("a fox", seed=1, size=64).images[0]
    alone = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    assert steps_of(pipe, "generate", "a fox", seed=1, size=64)["decoder"] == STEPS
    assert steps_of(pipe, "generate", "a fox", seed=1, size=64, preset="fast")["decoder"] == STEPS
    slow = pipe("a fox", seed=1, size=64, preset="undistilled").images[0]
    assert slow.tobytes() == alone("a fox", seed=1, size=64).images[0].tobytes() != picture.tobytes()
    for options in ({"negative": "a dog"}, {"options": {"decoder": {"guidance": 3.0}}}):
        ours, theirs = (one("a fox", seed=1, size=64, **options).images[0] for one in (pipe, alone))
        assert ours.tobytes() == theirs.tobytes()
    ours, theirs = (one.invert(picture, options={"decoder": {"steps": STEPS}}).noise for one in (pipe, alone))
    assert torch.equal(ours, theirs)
    edited = [one.edit(picture, "a dog", strength=0.5, seed=1).images[0] for one in (pipe, alone)]
    assert edited[0].tobytes() == edited[1].tobytes()


def test_settings_reproduce_either_decoders_picture(both: Path) -> None:
    pipe = Pipeline.from_pretrained(str(both), device="cpu")
    for preset in ("balanced", "undistilled"):
        first = pipe("a fox", seed=1, size=64, preset=preset).images[0]
        again = pipe("a fox", seed=1, size=64, options=first.info["unclip"]["stages"]).images[0]
        assert first.tobytes() == again.tobytes()


def test_both_decoders_are_offloaded_and_saved(both: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(str(both), device="cpu")
    offloaded = Pipeline.from_pretrained(str(both), device="cpu", offload=True)
    pipe.save_pretrained(tmp_path / "copy")
    copied = Pipeline.from_pretrained(str(tmp_path / "copy"), device="cpu")
    for preset in ("balanced", "undistilled"):
        pictures = {
            one("a fox", seed=1, size=64, preset=preset).images[0].tobytes()
            for one in (pipe, offloaded, copied)
        }
        assert len(pictures) == 1


@pytest.mark.parametrize("offload", [False, True])
def test_an_adapter_changes_both_decoders(
    both: Path, tiny_model: Path, tmp_path: Path, offload: bool
) -> None:
    adapter = tiny_lora.make(tmp_path / "lora", tiny_model / "decoder")
    options: Any = {"seed": 3, "size": 64, "preset": "undistilled"}
    adapted, plain, slow = (
        Pipeline.from_pretrained(str(model), device="cpu", offload=offload, lora=lora)
        for model, lora in ((both, [adapter]), (both, []), (tiny_model, [adapter]))
    )
    options["options"] = {"decoder": {"steps": 2}}
    pictures = [pipe.generate("a cat", **options).images[0].tobytes() for pipe in (adapted, plain)]
    options["preset"] = "balanced"
    assert pictures[0] == slow.generate("a cat", **options).images[0].tobytes() != pictures[1]


def test_a_distilled_decoder_alone_says_what_it_cannot_do(
    tiny_model: Path, student: Path, tmp_path: Path
) -> None:
    parts = [tiny_model / name for name in ("clip", "prior", "upsampler-256")]
    assemble([*parts, student], tmp_path / "alone")
    pipe = Pipeline.from_pretrained(str(tmp_path / "alone"), device="cpu")
    for options, says in (
        ({"options": {"decoder": {"guidance": 3.0}}}, "decoder: guidance 2 is distilled into its weights"),
        ({"negative": "a dog"}, "so it takes no negative prompt"),
    ):
        with pytest.raises(RequestError, match=says):
            pipe("a fox", seed=1, size=64, **options)
    assert steps_of(pipe, "generate", "a fox", seed=1, size=64, preset="paper")["decoder"] == STEPS
    picture = pipe("a fox", seed=1, size=64).images[0]
    assert pipe.vary(picture, seed=1, size=64, options={"decoder": {"steps": 2}}).images

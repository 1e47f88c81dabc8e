"""Small images with classes: label conditioning, and bits per dimension against a known density."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from unclip.cli import cli
from unclip.data.tar import write_shard
from unclip.diffusion.gaussian import broadcast_to
from unclip.diffusion.likelihood import bound
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.sde import VP
from unclip.errors import DataError, RequestError
from unclip.evaluate.nll import NllSettings, nll
from unclip.evaluate.pictures import PictureFiles
from unclip.images import read_settings
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.pixels import Pixels, PixelsConfig

UNET = {"channels": 32, "multipliers": [1, 1], "depth": 1}
QUICK = SamplingConfig(steps=2, sampler="ddim")
STD = 0.3  # of the known density, a Gaussian around 0


def stage(**config: Any) -> Pixels:
    """A random one: fresh residual branches are zero and would hide what they do."""
    torch.manual_seed(0)
    made = Pixels(
        PixelsConfig.model_validate({"size": 8, "channels": 1, "classes": 3, "unet": UNET, **config})
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def batch(**fields: Any) -> Batch:
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(1)) / 127.5 - 1
    return Batch(**{"image": images, "label": torch.tensor([0, 1, 2, 1]), "seeds": torch.arange(4), **fields})


class GaussianNoise(nn.Module):
    """ε's mean given x_t of Gaussian data, at times i of 1,000: what a network would learn of it."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (broadcast_to(one, x) for one in VP().marginal((t.double() + 1) / 1000))
        return x * sigma / ((alpha * STD) ** 2 + sigma**2)


class Kept(nn.Module):
    """Keeps what it is shown, at a time where there is little noise."""

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.x = x
        return x


def knowing(levels: int = 64) -> Pixels:
    """A stage without classes that knows the Gaussian."""
    diffusion = {"schedule": "linear", "variance": "fixed_large", "levels": levels, "clamp": None}
    made = stage(classes=0, diffusion=diffusion)
    made.network = GaussianNoise()
    made.register_parameter("nothing", nn.Parameter(torch.zeros(1)))  # says which device it is on
    return made


def cells(stage: Pixels, x: Tensor) -> Tensor:
    """−log2 of the probability of each pixel's level under the Gaussian; its tails are beyond ±1."""
    normal = torch.distributions.Normal(0.0, STD)
    half = stage.spacing / 2
    return -(normal.cdf(x.double() + half) - normal.cdf(x.double() - half)).log2()


def gaussian_shards(folder: Path, levels: int = 64, count: int = 64) -> PictureFiles:
    """Pictures of independent Gaussian pixels on so many levels."""
    drawn = (np.random.default_rng(0).normal(0, STD, (count, 8, 8)) + 1) / 2 * (levels - 1)
    pixels = np.rint(np.rint(drawn).clip(0, levels - 1) * (255 / (levels - 1))).astype(np.uint8)

    def sample(i: int) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(pixels[i]).save(file, "PNG")
        return {"__key__": f"{i:04d}", "png": file.getvalue(), "json": json.dumps({"label": i % 3}).encode()}

    folder.mkdir()
    write_shard(folder / "0.tar", map(sample, range(count)))
    return PictureFiles.at(str(folder))


# --- what a label does ---


def test_the_loss_reads_the_label_unless_it_is_dropped() -> None:
    others = torch.tensor([1, 2, 0, 2])
    for drop, same in ((0.0, False), (1.0, True)):
        made = stage(label_drop=drop)
        assert torch.allclose(made(batch()), made(batch(label=others))) == same


def test_a_model_without_classes_reads_no_label() -> None:
    made = stage(classes=0)
    assert torch.equal(made(batch()), made(batch(label=None)))
    with pytest.raises(RequestError, match="without classes"):
        made.sample(torch.tensor([0]), QUICK, SeededNoise([0]))


def test_labels_that_are_missing_or_unknown() -> None:
    with pytest.raises(DataError, match="no labels"):
        stage()(batch(label=None))
    with pytest.raises(DataError, match="class 3: the stage has 3"):
        stage()(batch(label=torch.tensor([0, 1, 2, 3])))


def test_guidance_leads_from_no_class() -> None:
    made = stage()
    plain, guided, none = (
        torch.cat(list(made.draw(labels, [7], SamplingConfig(steps=1, sampler="ddim", guidance=scale))))
        for labels, scale in (([1], 1.0), ([1], 3.0), (None, 1.0))
    )
    assert not torch.allclose(plain, guided)
    assert not torch.allclose(plain, none)


def test_pictures_depend_on_their_own_seed_and_class() -> None:
    made = stage()
    with torch.inference_mode():
        one = torch.cat(list(made.draw([0, 1, 2], [5, 6, 7], QUICK, batch=3)))
        other = torch.cat(list(made.draw([2, 1], [7, 6], QUICK, batch=1)))
    torch.testing.assert_close(one[[2, 1]], other, atol=1e-3, rtol=0)


def test_grey_pictures_on_the_levels_of_the_data() -> None:
    made = stage(diffusion={"levels": 5})
    x = made.data(batch())
    assert x.shape == (4, 1, 8, 8)
    assert set(x.flatten().tolist()) <= {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert (x - batch().image.mean(1, keepdim=True)).abs().max() <= 0.25 + 1e-6  # type: ignore[union-attr]


def test_half_of_the_pictures_are_mirrored() -> None:
    made = stage(flips=True, classes=0)
    made.network = Kept()
    shown = torch.arange(8.0).expand(64, 3, 8, 8) / 4 - 1
    made(Batch(image=shown, seeds=torch.arange(64)))
    rising = (made.network.x[..., 7] - made.network.x[..., 0]).mean((1, 2)) > 0
    assert 16 < rising.sum() < 48


# --- continuous time ---


@pytest.mark.parametrize(
    "change", [{"schedule": "cosine"}, {"predict": "v"}, {"objective": "vlb"}, {"variance": "learned"}]
)
def test_continuous_time_is_vp_only(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="continuous needs"):
        stage(continuous=True, diffusion={"schedule": "linear", **change})


def test_the_score_is_the_noise_at_the_same_time() -> None:
    x, i = torch.randn(4, 1, 8, 8), torch.tensor([99, 300, 499, 999])
    label = torch.tensor([0, 1, 2, 0])
    for predict in ("eps", "x0", "v"):
        made = stage(diffusion={"schedule": "linear", "predict": predict, "clamp": None})
        with torch.inference_mode():
            score = made.score(label)(x, (i.double() + 1) / 1000)
        for row, t in enumerate(i.tolist()):
            denoise = made.diffusion.denoiser(made.network, {"label": label[row : row + 1]})
            with torch.inference_mode():
                eps = denoise(x[row : row + 1], t).eps[0]
            sigma = made.diffusion.schedule.at(t)[1]
            torch.testing.assert_close(score[row], -eps / sigma, rtol=0.02, atol=0.02 / sigma)


def test_no_ode_for_another_schedule() -> None:
    with pytest.raises(RequestError, match="cosine schedule"):
        stage(diffusion={"schedule": "cosine"}).score(None)


# --- bits per dimension ---


def test_the_bound_of_a_known_density() -> None:
    made = knowing()
    x0 = made.data(
        Batch(image=STD * torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 3**0.5)
    )
    truth = cells(made, x0).flatten(1).mean(1)
    found = bound(made.diffusion, made.network, x0, {}, ExampleRng(torch.arange(8), x0.device))
    gap = (found.total.double() - truth).mean().item()
    # What a thousand steps of fixed variance leave of it, for a network that takes the levels for a density.
    assert 0 < gap < 0.15
    assert found.prior.max() < 1e-3
    few = bound(made.diffusion, made.network, x0, {}, ExampleRng(torch.arange(8), x0.device), terms=100)
    assert few.steps.mean().item() == pytest.approx(found.steps.mean().item(), rel=0.05)
    # It is a bound of a wrong model too, and a looser one.
    wrong = bound(
        made.diffusion, lambda x, t: 0.8 * made.network(x, t), x0, {}, ExampleRng(torch.arange(8), x0.device)
    )
    assert (wrong.total > found.total + 0.05).all()


def test_the_ode_of_a_known_density_is_exact_and_below_the_bound(tmp_path: Path) -> None:
    made, found = knowing(), gaussian_shards(tmp_path / "data")
    measured = nll(made, found, NllSettings(resamples=50, batch=32, terms=100, ode=True))
    image = torch.stack(
        [torch.from_numpy(np.array(one)).permute(2, 0, 1) / 127.5 - 1 for one in found.read(0, 1)]
    )
    truth = cells(made, made.data(Batch(image=image))).mean().item()
    ode, upper = measured.figures["ODE"], measured.figures["bound"]
    assert ode.value == pytest.approx(truth, abs=0.02)
    assert ode.value < upper.value
    assert ode.low is not None and ode.high is not None and ode.low < ode.value < ode.high
    parts = sum(measured.figures[name].value for name in ("  L_T", "  sum of L_t", "  L_0"))
    assert parts == pytest.approx(upper.value, abs=1e-5)


def test_too_few_pictures_or_none_with_a_label(tmp_path: Path) -> None:
    found = gaussian_shards(tmp_path / "data", count=3)
    with pytest.raises(RequestError, match="9 pictures are asked for, and there are 3"):
        nll(stage(), found, NllSettings(count=9))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 pictures have no label"):
        nll(stage(), PictureFiles.at(str(tmp_path)), NllSettings())


# --- the command line ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "stage").mkdir()
    stage(sampling={"steps": 2, "sampler": "ddim"}).save(tmp_path / "stage")
    return tmp_path / "stage"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def test_a_sheet_and_a_folder_of_samples(saved: Path, tmp_path: Path) -> None:
    assert run("sample", saved, "--count", 6, "--scale", 2, "-o", tmp_path / "a.png").exit_code == 0
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (3 * 18 - 2, 2 * 18 - 2)  # a column for each class
    assert read_settings(tmp_path / "a.png")["sampling"]["steps"] == 2
    assert run("sample", saved, "--count", 3, "--class", 2, "--seed", 9, "-o", tmp_path / "b").exit_code == 0
    assert [str(path.relative_to(tmp_path)) for path in sorted((tmp_path / "b").rglob("*.png"))] == [
        "b/2/00000009.png",
        "b/2/00000010.png",
        "b/2/00000011.png",
    ]
    alone = run("sample", saved, "--count", 1, "--class", 2, "--seed", 10, "-o", tmp_path / "c")
    assert alone.exit_code == 0
    pixels = [np.array(Image.open(tmp_path / name / "2/00000010.png")).astype(int) for name in "bc"]
    assert abs(pixels[0] - pixels[1]).max() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--class", "3"], "the stage has 3 classes"),
        (["--count", "0"], "must be at least 1"),
        (["--sampler", "euler"], "no sampler 'euler'"),
        (["--guidance", "-1"], "guidance"),
    ],
)
def test_what_cannot_be_sampled(saved: Path, tmp_path: Path, options: list[str], said: str) -> None:
    result = run("sample", saved, "-o", tmp_path / "a.png", *options)
    assert said in str(result.exception)
    assert not (tmp_path / "a.png").exists()


def test_bits_by_the_command(saved: Path, tmp_path: Path) -> None:
    gaussian_shards(tmp_path / "data", count=4)
    result = run(
        "evaluate", "nll", saved, tmp_path / "data", "--terms", 3, "--json", "--out", tmp_path / "report"
    )
    tree = json.loads(result.output)
    assert tree["settings"]["unit"] == "bits/dim" and tree["settings"]["count"] == 4
    assert set(tree["figures"]) == {"bound", "  L_T", "  sum of L_t", "  L_0"}
    assert (tmp_path / "report/report.md").is_file()

"""`unclip generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.jobs import RECORD, Job, Share, fingerprint
from unclip.errors import RequestError
from unclip.presets import PRESETS

if TYPE_CHECKING:
    from PIL import Image

    from unclip.pipeline import Generation, OnStep, Pipeline

# Pictures that pass the prior and the decoder together; each batch is saved before the next one begins.
BATCH = 8
NAME = "{prompt}-{seed}.png"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST = 10_000  # pictures of one command: a slip of the finger should not fill a disk


@click.command()
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--prompts-file",
    type=click.Path(path_type=Path),
    help="More prompts, one per line. With -o FOLDER, the same command again goes on after a stop.",
)
@click.option("-n", "--num-images", default=1, show_default=True, help="Pictures of each prompt.")
@click.option("-o", "--output", help="A file, a folder, or a pattern with {prompt}, {seed} and {index}.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--seed", type=int, help="Of the first picture; the next ones count up. Random if not given.")
@click.option("--size", type=int, help="64, 256 or 1024 pixels: where the chain stops. [default: the largest]")
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id owner/name.")
@click.option(
    "--steps",
    multiple=True,
    metavar="[STAGE=]N",
    help="Denoising steps; without a stage, the decoder's. Or a preset's name.",
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="Steps and samplers of all stages. [default: balanced]"
)
@click.option("--guidance", multiple=True, metavar="[STAGE=]X", help="Guidance scale; without a stage, the decoder's.")
@click.option(
    "--sampler", multiple=True, metavar="[STAGE=]NAME", help="ddpm, ddim, dpmpp_2m …; without a stage, the decoder's."
)
@click.option("--negative", default="", help="What the picture should not show.")
@click.option("--device", help="cpu, cuda, cuda:1, mps. [default: the best one there is]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="[default: float32; Karlo's bfloat16 where the device is quick in it]",
)
@click.option("--offload", is_flag=True, help="Keep one stage in memory at a time; slower to start each.")
@click.option("--grid", is_flag=True, help="Write one contact sheet instead of single pictures.")
@click.option("--save-stages", is_flag=True, help="Write the smaller pictures of the earlier stages, too.")
@click.option("--no-watermark", is_flag=True, help="Leave out the invisible mark that says a model made the picture.")
@click.option("--no-metadata", is_flag=True, help="Leave out the settings, and what says so in the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per picture instead of its path.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
def generate(
    prompts: tuple[str, ...], prompts_file: Path | None, num_images: int, output: str | None, overwrite: bool,
    seed: int | None, size: int | None, model: str, steps: tuple[str, ...], preset: str | None,
    guidance: tuple[str, ...], sampler: tuple[str, ...], negative: str, device: str | None, dtype: str | None, offload: bool, grid: bool,
    save_stages: bool, no_watermark: bool, no_metadata: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make pictures of captions.

    \b
    unclip generate "a shiba inu wearing a beret" -n 4 --seed 7
    unclip generate "a corgi in space" -o "out/{prompt}-{seed}.png" --steps decoder=40 --guidance prior=2
    accelerate launch -m unclip generate --prompts-file prompts.txt -o out/
    """
    captions = _captions(prompts, prompts_file)
    total = len(captions) * num_images
    if num_images < 1 or (num_images if prompts_file else total) > MOST:
        raise RequestError(f"{total} pictures: one command makes 1 to {MOST}; go on with another --seed for more")
    given = ",".join(steps).split(",") if steps else []
    chosen = [value for value in given if value in PRESETS] + ([preset] if preset else [])
    numbers = tuple(value for value in given if value not in PRESETS)
    options = sampling_options({"steps": numbers, "guidance": guidance, "sampler": sampler})
    share = Share()
    if grid and share.processes > 1:
        raise RequestError("--grid: a sheet is one picture and one process's work; leave out accelerate launch")
    pattern = _pattern(output, 1 if grid else total, grid=grid, numbered=prompts_file is not None and not grid)
    job = None
    if prompts_file is not None and output is not None and not grid and "{" in pattern:
        job = Job(Path(pattern.partition("{")[0] + RECORD).with_name(RECORD), {
            "prompts": fingerprint(captions), "num_images": num_images, "files": Path(pattern).name, "model": model,
            "size": size, "negative": negative, "dtype": dtype or "default", "options": options, "watermark": not no_watermark,
        })  # fmt: skip
    begun = None if job is None or overwrite else job.begun(seed)
    first, going_on = share.agree(_first_seed(seed) if begun is None else begun, begun is not None)
    pairs = [(caption, first + i) for caption in captions for i in range(num_images)]
    paths = _paths(pattern, pairs[:1] if grid else pairs)
    batches = share.batches(total, BATCH)
    if going_on:
        batches = [left for batch in batches if (left := [i for i in batch if not paths[i].exists()])]
    mine = [i for batch in batches for i in batch]
    check_outputs(paths if grid else [paths[i] for i in mine], overwrite)

    import torch

    from unclip import images
    from unclip.generation import reachable
    from unclip.pipeline import Pipeline, check_prompt

    for caption in captions:
        check_prompt(caption)
    with share.first_process_first():
        pipe = Pipeline.from_pretrained(
            model, device=device or share.device, dtype=getattr(torch, dtype) if dtype else None,
            offload=offload,
        )  # fmt: skip
        if size is not None and size not in (sides := reachable(pipe)):
            raise RequestError(f"--size {size}: {pipe.name} makes pictures of {', '.join(map(str, sides))} pixels")
        if save_stages and not grid:
            smaller = [side for side in pipe.sizes if side < (size or pipe.sizes[-1])]
            check_outputs([_stage_path(paths[i], side) for i in mine for side in smaller], overwrite or going_on)
        if job is not None and share.rank == 0 and not going_on:
            job.begin(first)
    if not quiet:
        if pipe.quick and pipe.dtype is not None:
            click.echo(
                f"{pipe.name} runs in bfloat16 here; --dtype float32 is slower and the same everywhere", err=True
            )
        for caption in dict.fromkeys(pairs[i][0] for i in mine):
            _warn(pipe, caption)
    sheet = []
    for batch in batches:
        part = [pairs[i] for i in batch]
        with progress(quiet, f"{batch[0] + 1}–{batch[-1] + 1} of {total}" if total > BATCH else "") as on_step:
            made = pipe.generate(
                [caption for caption, _ in part], seeds=[s for _, s in part], size=size, negative=negative,
                preset=chosen[-1] if chosen else "balanced", options=options, keep_stages=save_stages, on_step=on_step,
                watermark=not (no_watermark or grid),
            )  # fmt: skip
        if grid:
            sheet += made.images
            continue
        for number, i in enumerate(batch):
            _write(made, number, paths[i], as_json=as_json, metadata=not no_metadata)
    if grid:
        # The sheet is one picture, so it carries one mark and not one in each of its parts.
        whole = images.grid(sheet) if no_watermark else images.mark(images.grid(sheet))
        _save(whole, paths[0], {"grid": list(_grid_settings(pairs, made.settings[0]))}, metadata=not no_metadata)
        click.echo(json.dumps({"path": str(paths[0]), "images": total, "seed": first}) if as_json else str(paths[0]))


def _write(made: Generation, i: int, path: Path, *, as_json: bool, metadata: bool) -> None:
    for side, pictures in made.stages.items():
        _save(pictures[i], _stage_path(path, side), made.settings[i], metadata=metadata)
    _save(made.images[i], path, made.settings[i], metadata=metadata)  # last: where it is, all of them are
    if as_json:
        each = {role: round(s / len(made.images), 3) for role, s in made.seconds.items()}
        line = {
            "path": str(path),
            "prompt": made.settings[i]["prompt"],
            "seed": made.seeds[i],
            "settings": made.settings[i],
        }
        click.echo(json.dumps({**line, "seconds": each}, ensure_ascii=False))
    else:
        click.echo(str(path))


def _save(image: Image.Image, path: Path, settings: dict[str, Any], *, metadata: bool) -> None:
    from unclip.images import save_picture

    if metadata:
        save_picture(image, path, settings=settings, source="trainedAlgorithmicMedia")
    else:
        save_picture(image, path)


def _stage_path(path: Path, side: int) -> Path:
    """Where the smaller picture of an earlier stage goes."""
    return path.with_name(f"{path.stem}-{side}{path.suffix}")


def _grid_settings(jobs: Sequence[tuple[str, int]], common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for caption, seed in jobs:
        yield {**common, "prompt": caption, "seed": seed}


def _captions(prompts: Sequence[str], file: Path | None) -> list[str]:
    captions = list(prompts)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
            ) from None
        captions += [line for line in lines if line.strip()]
    if not captions:
        raise RequestError('no prompt: say what the picture should show, as in unclip generate "a corgi in space"')
    if any(not caption.strip() for caption in captions):
        raise RequestError("the prompt is empty; say what the picture should show")
    return captions


def _first_seed(seed: int | None) -> int:
    if seed is None:
        import secrets

        return secrets.randbelow(2**31)
    return seed


def sampling_options(given: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """`--steps prior=8 --steps 30` as {"prior": {"steps": "8"}, "decoder": {"steps": "30"}}; the stages check the values."""
    options: dict[str, dict[str, Any]] = {}
    for name, values in given.items():
        for value in ",".join(values).split(",") if values else ():
            stage, equals, setting = value.rpartition("=")
            options.setdefault(stage if equals else "decoder", {})[name] = setting
    return options


def _pattern(output: str | None, total: int, *, grid: bool, numbered: bool) -> str:
    """What the pictures' names are made by."""
    if output is None:
        return NAME.replace(".", "-grid.") if grid else NAME
    if "{" in output:
        return output
    if output.endswith(("/", "\\")) or Path(output).is_dir() or not Path(output).suffix:
        # Of thousands of captions some begin alike, and some are the same.
        return str(Path(output) / (f"{{index:0{len(str(total - 1))}}}-{NAME}" if numbered else NAME))
    stem = Path(output)
    return output if total == 1 else str(stem.with_name(f"{stem.stem}-{{index}}{stem.suffix}"))


def _paths(pattern: str, pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """Where each picture goes."""
    try:
        paths = [Path(pattern.format(prompt=_slug(c), seed=s, index=i)) for i, (c, s) in enumerate(pairs)]
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"--output {pattern}: a pattern knows {{prompt}}, {{seed}} and {{index}} only, not {error}"
        ) from None
    if any(path.suffix.lower() not in SUFFIXES for path in paths):
        raise RequestError(f"--output {pattern}: give a folder, or a name that ends in {', '.join(SUFFIXES)}")
    if len(set(paths)) < len(paths):
        raise RequestError(f"--output {pattern}: several pictures would get one name; use {{seed}} or {{index}} in it")
    return paths


def _slug(caption: str) -> str:
    """A caption as part of a file name."""
    name = "-".join("".join(c if c.isalnum() else " " for c in caption).split())[:60]
    # File systems count bytes, and a letter can take four of them.
    return name.encode()[:180].decode(errors="ignore").strip("-") or "picture"


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Finds out before the work, not after it, whether the pictures can be kept."""
    import os

    for path in paths:
        if path.is_dir():
            raise RequestError(f"{path}: is a folder")
        if path.exists() and not overwrite:
            raise RequestError(f"{path}: exists already and is kept; --overwrite replaces it")
    for folder in {path.parent for path in paths}:
        # Folders are made with the first picture, so that a request refused for another reason leaves none behind.
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise RequestError(f"{folder}: cannot be made ({there} is a file)")
        if not os.access(there, os.W_OK):
            raise RequestError(f"{folder}: cannot be {'written to' if there == folder else 'made'} (not permitted)")


def _warn(pipe: Pipeline, caption: str) -> None:
    _, cut = pipe.clip.cut(caption)
    if cut:
        click.echo(f"warning: the prompt is too long for {pipe.name}; this is not read: {cut!r}", err=True)
    unknown = pipe.unknown_words(caption)
    if unknown:
        click.echo(
            f"warning: {pipe.name} has never seen: {', '.join(unknown)}. It knows its small world only; "
            "for open-ended prompts use --model with a model trained on captioned photographs (docs/models.md)",
            err=True,
        )


@contextmanager
def progress(quiet: bool, label: str) -> Iterator[OnStep | None]:
    """A bar per stage on a terminal, none in a pipe."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def on_step(role: str, number: int, steps: int, step: object) -> None:
        if role not in bars or number == 1:
            for bar in bars.values():
                bar.close()
            bars[role] = tqdm(total=steps, desc=f"{role} {label}".strip(), unit="step", leave=True)
        bars[role].update()

    try:
        yield on_step
    finally:
        for bar in bars.values():
            bar.close()

"""`unclip train`, `unclip calibrate` and `unclip assemble`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.errors import RequestError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[key.sub=value]...")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder. [default: runs/NAME]")
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved config and what the run will take, and stop."
)
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="For --dry-run: how many."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def train(
    config: Path, overrides: tuple[str, ...], out: Path | None, dry_run: bool, devices: int, quiet: bool
) -> None:
    """Train one stage. The same command run again resumes.

    \b
    unclip train configs/mini/prior.yaml train.steps=2000
    accelerate launch -m unclip train configs/mini/decoder.yaml --out runs/decoder
    unclip train configs/dalle2/decoder.yaml --dry-run --devices 128
    """
    from unclip.train.config import read_run

    run = read_run(config, overrides)
    if dry_run:
        import yaml

        from unclip.train.plan import describe

        click.echo(yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False).rstrip())
        click.echo(describe(run, devices))
        return
    from unclip.device import join_processes
    from unclip.train.loop import train as train_stage

    folder = train_stage(run, out or Path("runs") / run.name, progress=not quiet)
    if join_processes().is_main_process:
        click.echo(str(folder))


@click.command()
@click.argument("prior")
@click.argument("shards")
@click.option("--clip", help="Reference of the prior's CLIP, where the shards hold no embeddings.")
@click.option("--count", default=512, show_default=True, help="Samples to measure on.")
def calibrate(prior: str, shards: str, clip: str | None, count: int) -> None:
    """Measure on training data the variance that the sampler analytic_dpm takes, and store it with the prior.

    \b
    unclip calibrate runs/prior 'data/menagerie/train-64/*.tar' --clip runs/clip
    """
    from unclip.train.x0_variance import calibrate as measure

    click.echo(str(measure(prior, shards, clip, count=count)))


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model folder to write."
)
@click.option("--name", help="Of the model. [default: the folder's]")
@click.option(
    "--clip",
    help="The CLIP if none of the runs is one: a public one is named in the model, the files of another copied.",
)
@click.option("--half", is_flag=True, help="Save the weights in half precision.")
@click.option(
    "--world", type=click.Choice(["menagerie"]), help="Record the closed vocabulary the model was trained on."
)
@click.option("--overwrite", is_flag=True, help="Replace a model folder that exists.")
def assemble(
    runs: tuple[str, ...],
    output: Path,
    name: str | None,
    clip: str | None,
    half: bool,
    world: str | None,
    overwrite: bool,
) -> None:
    """Join stages into a model folder, ready for `generate --model`.

    RUN is a training run, a saved stage, or a stage of a model, such as mini/upsampler-256.
    """
    if output.exists() and not overwrite:
        raise RequestError(f"{output}: exists already and is kept; --overwrite replaces it")
    import torch

    from unclip.menagerie.captions import vocabulary
    from unclip.models.assemble import assemble as join

    words = sorted(vocabulary()) if world else None
    join(runs, output, name=name, clip=clip, dtype=torch.float16 if half else None, vocabulary=words)
    click.echo(str(output))

"""`unclip train`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH
from unclip.errors import TrainingError

RUN = "a run"  # value of --keys without a stage
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def _print_keys(context: click.Context, _: click.Parameter, stage: str | None) -> None:
    if stage is None or context.resilient_parsing:
        return
    from unclip.train.keys import described

    click.echo(described(None if stage == RUN else stage))
    context.exit()


@click.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key.sub=value]...")
@click.option("--out", type=PATH, help="Folder of the run. Default: runs/NAME.")
@click.option(
    "--keys",
    metavar="[STAGE]",
    is_flag=False,
    flag_value=RUN,
    is_eager=True,
    expose_value=False,
    callback=_print_keys,
    help="Print every config key of a run, or those of a kind of stage (prior, decoder …), and stop.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the resolved config, open the data and the CLIP, estimate time and memory, and stop.",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    help="Number of GPUs that --dry-run plans for, elsewhere: nothing is opened. Default: this device.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def train(
    config: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    devices: int | None,
    quiet: bool,
) -> None:
    """Train one stage. Run the same command again to resume; Ctrl-C saves the last step.

    \b
    unclip train configs/mini/prior.yaml train.steps=2000
    unclip train --keys decoder
    accelerate-launch -m unclip train configs/mini/decoder.yaml --out runs/decoder
    unclip train configs/dalle2/decoder.yaml --dry-run --devices 128
    """
    from unclip.train.config import read_run

    run = read_run(config, overrides)
    if dry_run:
        import yaml

        from unclip.train.plan import describe

        click.echo(yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False).rstrip())
        if devices is not None:
            click.echo(describe(run, devices))
            return
        from unclip.train.preflight import describe_here

        click.echo(describe_here(run))
        return
    from unclip.device import join_processes
    from unclip.train.loop import train as train_stage

    try:
        folder = train_stage(run, out or Path("runs") / run.name, progress=not quiet)
    except RuntimeError as error:  # torch's errors for GPUs and CPUs have no other class in common
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"{run.name}: out of memory ({str(error).splitlines()[0][:200]}). Lower data.batch and raise "
            "train.accumulate, set train.recompute=true, or make the stage smaller"
        ) from None
    if join_processes().is_main_process:
        click.echo(str(folder))

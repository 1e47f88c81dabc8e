"""`unclip train`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH


@click.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key.sub=value]...")
@click.option("--out", type=PATH, help="Folder of the run. Default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Print the resolved config and the run's cost, and stop.")
@click.option(
    "--devices",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of devices that --dry-run assumes.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def train(
    config: Path, overrides: tuple[str, ...], out: Path | None, dry_run: bool, devices: int, quiet: bool
) -> None:
    """Train one stage. Run the same command again to resume.

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

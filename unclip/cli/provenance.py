"""`unclip provenance`: content credentials."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def provenance() -> None:
    """Content credentials (C2PA): signed statements that a model made a picture."""


@provenance.command()
@click.argument("folder", type=_FOLDER)
@click.option("--name", default="unclip", show_default=True, help="Name of the signing organisation.")
def init(folder: Path, name: str) -> None:
    """Make a self-signed certificate in FOLDER. It names the signer, but is on no trust list."""
    from unclip.provenance.credentials import create

    create(folder, name)
    click.echo(str(folder))


@provenance.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--credentials", required=True, type=_FOLDER, help="Folder with certificates.pem and key.pem.")
@click.option("--edited", is_flag=True, help="State that a model made only a part of each picture.")
@click.option(
    "--assert-generated",
    is_flag=True,
    help="State that a model made pictures without any mark, too. Default: they are refused.",
)
def sign(files: tuple[Path, ...], credentials: Path, edited: bool, assert_generated: bool) -> None:
    """Sign generated pictures in place. Programs that save them again drop the signature."""
    from unclip.errors import RequestError
    from unclip.images import write
    from unclip.provenance.credentials import Signer
    from unclip.provenance.verify import verify

    signer = Signer.load(credentials)
    if not assert_generated:
        for path in files:
            if not verify(path).generated:
                raise RequestError(
                    f"{path}: carries no mark that a model made it; sign it with --assert-generated if you "
                    "know that"
                )
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            signed = signer.sign(
                data, "compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia"
            )
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None
        write(path, signed)
        click.echo(str(path))

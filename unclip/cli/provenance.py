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
@click.option("--name", default="unclip", show_default=True, help="The organisation that signs.")
def init(folder: Path, name: str) -> None:
    """Make a certificate of one's own in FOLDER. No list of trusted signers knows it: it shows who signed, no more."""
    from unclip.provenance.credentials import create

    create(folder, name)
    click.echo(str(folder))


@provenance.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--credentials", required=True, type=_FOLDER, help="A folder with certificates.pem and key.pem.")
@click.option("--edited", is_flag=True, help="A model made a part of each picture only.")
def sign(files: tuple[Path, ...], credentials: Path, edited: bool) -> None:
    """Sign pictures, in place, that a model made. Whatever writes them anew afterwards drops the signature."""
    from unclip.errors import RequestError
    from unclip.images import write
    from unclip.provenance.credentials import Signer

    signer = Signer.load(credentials)
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            signed = signer.sign(data, "compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia")
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None
        write(path, signed)
        click.echo(str(path))

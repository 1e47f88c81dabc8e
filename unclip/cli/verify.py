"""`unclip verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.outputs import echo_json
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.provenance.verify import Findings


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per file.")
def verify(files: tuple[Path, ...], as_json: bool) -> None:
    """Look for marks that a model made the pictures. Marks can be removed: their absence proves nothing."""
    from unclip.provenance.verify import verify as look

    unreadable = 0
    for path in files:
        try:
            findings = look(path)
        except RequestError as error:
            unreadable += 1
            click.echo(f"error: {error}", err=True)
            continue
        tree = {"path": str(path), **_tree(findings)}
        if as_json:
            echo_json(tree)
        else:
            click.echo(_readable(path, findings))
    if unreadable:
        raise RequestError(f"{unreadable} of {len(files)} files cannot be read")


def _tree(findings: Findings) -> dict[str, Any]:
    return {
        "generated": findings.generated,
        "metadata": list(findings.header.generated),
        "watermark": None
        if (watermark := findings.watermark) is None
        else {
            "found": watermark.found,
            "score": round(watermark.score, 2),
            "threshold": round(watermark.threshold, 2),
        },
        "credentials": findings.header.credentials,
        "manifest": None if findings.manifest is None else vars(findings.manifest),
    }


def _readable(path: Path, findings: Findings) -> str:
    marks = [f"  {name + ':':13}{says}" for name, says in findings.marks.items()]
    return "\n".join((f"{path}: {findings.verdict}", *marks))

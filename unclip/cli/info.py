"""`unclip info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.outputs import echo_json
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.models.resolve import Model
    from unclip.pipeline.sizes import SizeGrid


@click.command()
@click.argument("ref", required=False, metavar="[FILE | MODEL | RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(ref: str | None, as_json: bool) -> None:
    """Show a picture's settings, a model's parts or a run's progress; by default, the version."""
    if ref is None:
        tree = _program()
    elif Path(ref).is_file() or ref.lower().endswith(".png"):
        from unclip.images import read_settings

        tree = read_settings(Path(ref))
    elif (Path(ref) / "run.yaml").is_file():
        from unclip.train.status import status

        tree = status(Path(ref))
    else:
        tree = _model(ref)
    try:
        if as_json:
            echo_json(tree)
        else:
            click.echo(_readable(tree))
    except RecursionError:
        raise RequestError(f"{ref}: its settings are nested too deeply to be shown") from None


def _program() -> dict[str, object]:
    from unclip.diffusion.samplers import SAMPLERS
    from unclip.version import __version__

    return {"unclip": __version__, "samplers": ", ".join(sorted(SAMPLERS)), "bundled models": "mini"}


def _model(ref: str) -> dict[str, object]:
    from unclip import files
    from unclip.models.resolve import resolve

    model = resolve(ref)
    if model.kind == "lora":
        return _adapter(model.folder)
    tree = {**model.index.model_dump(exclude_none=True), "clip": model.index.clip or model.clip}
    words = tree.pop("vocabulary", None)
    parts = [tree["clip"], *model.index.stages, model.index.undistilled]
    for name in dict.fromkeys(part for part in parts if part):
        weights = model.folder / name / "model.safetensors"
        if weights.is_file():
            count = sum(tensor.numel() for tensor in files.read_weights(weights).values())
            tree["parameters" if name == "." else f"parameters of {name}"] = f"{count:,}"
    if grid := _grid(model):
        tree["sizes, as --size takes them"] = grid.examples()
    if words:
        tree["words it knows"] = " ".join(words)
    return tree


def _grid(model: Model) -> SizeGrid | None:
    """The sizes of the images that a model makes, read without its weights; None if it makes none."""
    import torch

    from unclip.files import read_json
    from unclip.pipeline import Pipeline
    from unclip.stages import stage_class
    from unclip.stages.config import parse_checkpoint

    def built(name: str) -> Any:
        folder = model.folder / name
        kind = stage_class(read_json(folder / "config.json")["kind"])
        with torch.device("meta"):
            return kind(parse_checkpoint(kind.Config, folder))

    index = model.index
    if index.decoder is None and not index.upsamplers:
        return None
    decoder = None if index.decoder is None else built(index.decoder)
    upsamplers = [built(name) for name in index.upsamplers]
    return Pipeline(None, None, decoder, upsamplers, folder=model.folder, index=index).grid


def _adapter(folder: Path) -> dict[str, object]:
    from unclip import files

    tree = files.read_json(folder / "config.json")
    stage = tree.pop("stage", {})
    count = sum(tensor.numel() for tensor in files.read_weights(folder / "model.safetensors").values())
    of_stage = {key: stage[key] for key in ("kind", "size", "clip") if stage.get(key) is not None}
    return {**tree, "parameters": f"{count:,}", "stage": of_stage}


def _readable(tree: dict[str, object], indent: str = "") -> str:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _readable(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{key}:", *(_readable(item, indent + "  ") for item in value)]
        else:
            lines.append(f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "\n".join(lines)

"""Models of diffusers that unclip cannot run: the reason, and what runs them.

To support a class, remove its entry here and add a converter to `convert.pipelines.PIPELINES`.
"""

from __future__ import annotations

from pathlib import Path

from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models.index import FILE

_KANDINSKY_2_1 = (
    "Kandinsky 2.1's decoder also reads captions through the multilingual XLM-R, which unclip lacks; "
    "diffusers runs it, and unclip its prior (kandinsky-community/kandinsky-2-1-prior)"
)

# By the beginning of a class name in model_index.json or config.json; the longest beginning that fits counts.
REASONS = {
    "ControlNet": "an addition to a U-Net of Stable Diffusion, which draws nothing alone; diffusers runs both",
    "Flux": "FLUX reads captions, not an image embedding; diffusers runs it",
    "IF": "DeepFloyd IF reads T5's states of a caption, not an image embedding; diffusers runs it",
    "Kandinsky3": "Kandinsky 3 has no prior and reads Flan-UL2's states of a caption; diffusers runs it",
    "Kandinsky5": "Kandinsky 5 reads captions, not an image embedding; diffusers runs it",
    "KandinskyCombined": _KANDINSKY_2_1,
    "KandinskyImg2Img": _KANDINSKY_2_1,
    "KandinskyInpaint": _KANDINSKY_2_1,
    "KandinskyPipeline": _KANDINSKY_2_1,
    "KandinskyV22Controlnet": "its decoder also reads a depth map, which unclip lacks; diffusers runs it",
    "ShapE": "Shap-E samples three-dimensional shapes; diffusers runs it",
    "StableCascade": "its prior samples latents of a picture, not CLIP embeddings; diffusers runs it",
    "StableDiffusion": "Stable Diffusion reads captions, not an image embedding; diffusers runs it",
    "StableDiffusionImageVariation": "it reads an image embedding instead of a caption; diffusers runs it",
    "T2IAdapter": "an addition to a U-Net of Stable Diffusion, which draws nothing alone; diffusers runs both",
    "Wuerstchen": "its prior samples latents of a picture, not CLIP embeddings; diffusers runs it",
}


def refuse_foreign(folder: Path, name: str) -> None:
    """Refuse the folder of a pipeline or network that unclip is known not to run.

    Only its index or config is read, so a Hub repository is refused before its weights are fetched.

    Args:
        folder: may also be a network's folder inside of such a pipeline's folder.
        name: the reference, for the message.

    Raises:
        CheckpointError: the class and the reason, in one line.
    """
    for path in (folder / FILE, folder / "config.json", folder.absolute().parent / FILE):
        kind = str(read_json(path).get("_class_name")) if path.is_file() else ""
        fits = [beginning for beginning in REASONS if kind.startswith(beginning)]
        if fits:
            kind = f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
            what = f"is {kind}" if path.parent == folder else f"belongs to {kind}"
            raise CheckpointError(f"{name}: {what}: {REASONS[max(fits, key=len)]}")

"""What a verb of a pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from unclip.images import save_picture
from unclip.provenance.metadata import Source


@dataclass(frozen=True)
class Generation:
    """What a verb made, image by image in the order of the prompts.

    Attributes:
        images: PIL images; each carries its settings in `.info["unclip"]`, so that it can be sampled again.
        seeds: one per image.
        settings: one per image, as written into its file.
        seconds: per stage, for the whole batch.
        image_embeds: z_i, [N, D]; of no width where pictures were only upsampled.
        stages: the images of the earlier stages by side in pixels (64, 256 …), where `keep_stages` asked for
            them.
        painted: for an edit, True where the model painted, [H, W]; None where it made all pixels.
    """

    images: list[Image.Image]
    seeds: list[int]
    settings: list[dict[str, Any]]
    seconds: dict[str, float]
    image_embeds: Tensor
    stages: dict[int, list[Image.Image]] = field(default_factory=dict)
    painted: Tensor | None = None

    @property
    def source(self) -> Source:
        """What the images' metadata say of their pixels: all of them generated, or a part of a given
        picture.
        """
        return "trainedAlgorithmicMedia" if self.painted is None else "compositeWithTrainedAlgorithmicMedia"

    def save(self, number: int, path: str | Path, *, size: int | None = None, metadata: bool = True) -> None:
        """Writes an image as PNG, JPEG or WebP, whole or not at all.

        Args:
            number: which image, from 0.
            path: its suffix says the format.
            size: write the image of an earlier stage instead, by its side in pixels.
            metadata: whether to write the settings and `source` into the file.

        Raises:
            RequestError: the file cannot be written, or its suffix is of no known format.
        """
        image = self.images[number] if size is None else self.stages[size][number]
        if metadata:
            save_picture(image, Path(path), settings=self.settings[number], source=self.source)
        else:
            save_picture(image, Path(path))

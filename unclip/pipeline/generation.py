"""The result of a pipeline's verb."""

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
    """The images of one call, in the order of the prompts, and how they were made.

    Attributes:
        images: PIL images; each has its settings in `.info["unclip"]`, which reproduce it.
        seeds: one per image.
        settings: one per image, as written into its file.
        seconds: time per stage, for the whole batch.
        image_embeds: z_i, [N, D]; [N, 0] if pictures were only upsampled.
        stages: the images of the earlier stages by side in pixels (64, 256 …); empty without `keep_stages`.
        painted: for an edit, True where the model painted, [H, W]. None if it made all pixels.
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
        """IPTC's digital source type: all pixels generated, or only a part of a given picture."""
        return "trainedAlgorithmicMedia" if self.painted is None else "compositeWithTrainedAlgorithmicMedia"

    def save(self, number: int, path: str | Path, *, size: int | None = None, metadata: bool = True) -> None:
        """Write an image as PNG, JPEG or WebP, atomically.

        Args:
            number: index of the image, from 0.
            path: its suffix sets the format.
            size: side in pixels of an earlier stage's image to write instead.
            metadata: whether to write the settings and `source` into the file.

        Raises:
            RequestError: the file cannot be written, or its suffix is unknown.
        """
        image = self.images[number] if size is None else self.stages[size][number]
        if metadata:
            save_picture(image, Path(path), settings=self.settings[number], source=self.source)
        else:
            save_picture(image, Path(path))

"""Join the two encoders of one CLIP where two models have one each: Stable unCLIP and Karlo's prior."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from unclip.files import read_json, write_json

TEXT, IMAGES = "text_encoder", "image_encoder"


class Towers(NamedTuple):
    """Folders of two converted CLIPs: one with the text encoder, one with the image encoder only."""

    text: Path
    images: Path

    @classmethod
    def among(cls, clips: Iterable[str]) -> Self | None:
        """The two CLIPs to join among references as `read_clip` takes them; None unless there is one each."""
        folders = {Path(clip) for clip in clips if (Path(clip) / "config.json").is_file()}
        text = [folder for folder in folders if (folder / TEXT).is_dir()]
        images = [folder for folder in folders if (folder / IMAGES).is_dir() and folder not in text]
        return cls(text[0], images[0]) if len(text) == len(images) == 1 else None

    @property
    def identities(self) -> tuple[str, str]:
        """Identities of both; the joined CLIP has the text encoder's."""
        text, images = (str(read_json(folder / "config.json").get("identity")) for folder in self)
        return text, images

    def write(self, out: Path) -> None:
        """Write the joined CLIP into a new folder."""
        shutil.copytree(self.text / TEXT, out / TEXT)
        shutil.copyfile(self.text / "tokenizer.json", out / "tokenizer.json")
        shutil.copytree(self.images / IMAGES, out / IMAGES)
        write_json(out / "config.json", {"kind": "clip", "identity": self.identities[0]})

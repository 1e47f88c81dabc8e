"""The page's finished pictures: files that live for a day, and a visitor's list of them."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

LIFETIME: Final = 24 * 3600  # seconds for which a picture can be fetched
MOST_REMEMBERED: Final = 100  # pictures in the list that a browser keeps
LONGEST_LIST: Final = 400_000  # characters of that list as JSON; the page's guard passes a million
FILE: Final = r"[0-9a-f]{32}/unclip-[0-9]{1,19}-[0-9]{1,2}\.png"  # of a picture, below the folder


class PagePicture(NamedTuple):
    """An image on the page.

    Attributes:
        path: its file.
        settings: those that made it, as the pipeline says.
        inputs: what the page asked for.
    """

    path: str
    settings: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class PageAlbum:
    """The folder of finished pictures. Each request has a folder with a random name in it."""

    folder: Path

    def keep(
        self, encoded: Sequence[tuple[bytes, dict[str, Any]]], inputs: dict[str, Any]
    ) -> list[PagePicture]:
        """Writes pictures, each with its settings, and removes those of the day before."""
        for old in self.folder.iterdir():
            if old.stat().st_mtime < time.time() - LIFETIME:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        kept = []
        for number, (data, settings) in enumerate(encoded, start=1):
            path = folder / f"unclip-{settings['seed']}-{number}.png"
            path.write_bytes(data)
            kept.append(PagePicture(str(path), settings, inputs))
        return kept

    def remember(self, pictures: Sequence[PagePicture]) -> list[dict[str, Any]]:
        """Returns the newest pictures as the browser keeps them: files without the server's folder."""
        stored, length = [], 0
        for one in pictures[:MOST_REMEMBERED]:
            file = "/".join(Path(one.path).parts[-2:])
            stored.append({"file": file, "settings": one.settings, "inputs": one.inputs})
            length += len(json.dumps(stored[-1]))
            if length > LONGEST_LIST:
                return stored[:-1]
        return stored

    def recall(self, stored: object) -> list[PagePicture]:
        """Returns those pictures of a browser's list that are still there.

        The list comes from outside. It can name files of this folder only, by their random names.
        """
        found = []
        for one in stored[:MOST_REMEMBERED] if isinstance(stored, list) else []:
            match one:
                case {"file": str(file), "settings": dict(settings), "inputs": dict(inputs)}:
                    path = self.folder / file
                    if re.fullmatch(FILE, file) and path.is_file():
                        found.append(PagePicture(str(path), settings, inputs))
        return found

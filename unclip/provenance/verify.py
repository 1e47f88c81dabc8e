"""Find all provenance marks of an image: metadata, content credentials and watermark."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unclip.errors import RequestError
from unclip.pictures import LARGEST, WrongSize, opened
from unclip.provenance.credentials import Manifest, read
from unclip.provenance.header import Header, read_header
from unclip.provenance.watermark import Detection, detect

WATERMARK = "watermark of unclip"
REDUCED = 2048  # pixels; a JPEG is decoded at the smallest scale with both sides above this


@dataclass(frozen=True)
class Findings:
    """Provenance marks of one image.

    Attributes:
        header: marks in the metadata.
        watermark: detection of the watermark; None if the image is too large to decode.
        manifest: content credentials; None if there are none, or without unclip[c2pa].
    """

    header: Header
    watermark: Detection | None
    manifest: Manifest | None = None

    @property
    def generated(self) -> bool:
        """Whether any mark says that a model made it."""
        return bool(self.header.generated) or (self.watermark is not None and self.watermark.found)

    @property
    def verdict(self) -> str:
        """What the marks say, in words."""
        return "made by a model" if self.generated else "no mark found"

    @property
    def marks(self) -> dict[str, str]:
        """What each kind of mark says, in words."""
        return {
            "metadata": "; ".join(self.header.generated) or "says nothing",
            "watermark": self._watermark(),
            "credentials": self._credentials(),
        }

    def _watermark(self) -> str:
        if self.watermark is None:
            return "not looked for (over 64 megapixels)"
        score, threshold = self.watermark
        found = "found" if self.watermark.found else "not found"
        return f"{found} (score {score:.1f}, threshold {threshold:.1f})"

    def _credentials(self) -> str:
        if not self.header.credentials:
            return "none"
        if self.manifest is None:
            return "a C2PA manifest"
        means = {
            "Trusted": "signed by {}, who is on C2PA's trust list",
            "Valid": "signed by {}, unchanged since; the signer is on no trust list",
        }.get(self.manifest.state, "of {}, but changed or damaged since it was signed")
        return f"a C2PA manifest {means.format(self.manifest.issuer or 'somebody unnamed')}"


def verify(path: Path) -> Findings:
    """Look for every mark in an image file. Images above 64 megapixels are not searched for the watermark.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
            file.seek(0)
            manifest = _manifest(file.read()) if header.credentials else None
            file.seek(0)
            return Findings(header, _find_watermark(file, search=True), manifest)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def _manifest(data: bytes) -> Manifest | None:
    try:
        return read(data)
    except RequestError:  # without the library, the header still tells whether there is one
        return None


def generated(data: bytes, *, watermark: bool = True) -> str | None:
    """Return the first mark that says a model made the image, or None; for filtering training data.

    Args:
        data: the image file.
        watermark: also decode it and look for the watermark, without a search for crops.
    """
    file: BinaryIO = io.BytesIO(data)
    header = read_header(file)
    if header.generated:
        return header.generated[0]
    if watermark:
        try:
            detection = _find_watermark(file, search=False)
        except RequestError:
            return None  # reported by the next decoder
        if detection is not None and detection.found:
            return WATERMARK
    return None


def _find_watermark(file: BinaryIO, *, search: bool) -> Detection | None:
    """Decode an image and look for the watermark; None if it is too large.

    Args:
        search: as in `detect`.
    """
    try:
        with opened(file) as image:
            image.draft(None, (REDUCED, REDUCED))  # only JPEGs can be decoded at a smaller scale
            if image.width * image.height > LARGEST:
                return None
            return detect(image, search=search)
    except WrongSize:  # more pixels than Pillow opens
        return None

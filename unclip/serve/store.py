"""Pictures behind signed URLs that end with the hour."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path

from unclip.serve.envelope import ApiError

LIFETIME = 3600  # seconds
NAME = re.compile(r"img-[0-9a-f]{32}\.png")


class Store:
    """A folder of pictures, and the key that signs their URLs.

    The key lies in the folder: URLs outlive the server if the folder does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / ".key"
        if not key.exists():
            temporary = folder / f".key-{secrets.token_hex(8)}"
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(32))
            temporary.replace(key)
        self._key = key.read_bytes()

    def add(self, data: bytes) -> str:
        """Keeps a PNG, forgets those whose hour is over, and returns the path and query that lead to it."""
        now = int(time.time())
        for path in self.folder.glob("img-*"):
            if path.stat().st_mtime < now - LIFETIME - 60:
                path.unlink(missing_ok=True)
        name = f"img-{secrets.token_hex(16)}.png"
        temporary = self.folder / f".{name}"
        temporary.write_bytes(data)
        temporary.replace(self.folder / name)
        end = now + LIFETIME
        return f"/v1/files/images/{name}?exp={end}&sig={self._signature(name, end)}"

    def find(self, name: str, end: str, signature: str) -> Path:
        """The file that a URL leads to.

        Raises:
            ApiError: it was not signed here, or its hour is over (403), or it is gone (404).
        """
        signed = NAME.fullmatch(name) and re.fullmatch(r"[0-9]{1,12}", end)
        if not signed or not hmac.compare_digest(self._signature(name, int(end)).encode(), signature.encode()):
            raise ApiError("The signature of this URL is not valid.", status=403)
        if int(end) < time.time():
            raise ApiError("This URL has expired.", status=403)
        path = self.folder / name
        if not path.is_file():
            raise ApiError("This picture is gone.", status=404)
        return path

    def _signature(self, name: str, end: int) -> str:
        return hmac.new(self._key, f"{name}/{end}".encode(), hashlib.sha256).hexdigest()

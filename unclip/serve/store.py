"""Finished images on disk, behind signed URLs that are valid for an hour."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Final

from unclip.errors import RequestError
from unclip.files import UNFINISHED, new_file
from unclip.serve.envelope import ApiError

LIFETIME: Final = 3600  # seconds for which a URL is valid
GRACE: Final = 60  # seconds that a file stays after its URL has expired
SWEEP: Final = 60.0  # seconds between two sweeps
RESERVE: Final = 64 << 20  # bytes that must stay free on the disk
NAME: Final = re.compile(r"img-[0-9a-f]{32}\.(png|jpeg|webp)")


class Store:
    """A folder of images and the key that signs their URLs.

    The key lies in the folder, so that URLs outlive the server if the folder does, and several servers can
    share it.

    Args:
        folder: created with mode 0700 if absent.
        quota: bytes that all images may take together; None for no limit but the disk.

    Raises:
        RequestError: the folder cannot be used.
    """

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.folder, self.quota = folder, quota
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = _load_key(folder)
        except OSError as error:
            raise RequestError(f"{folder}: cannot keep images there ({error.strerror})") from None
        self._lock = threading.Lock()
        self._size = 0  # bytes, as of the last sweep and what was added since
        self._stopped = threading.Event()
        self._sweeper: threading.Thread | None = None
        self.sweep()

    def start(self) -> None:
        """Starts to remove expired images in the background."""
        self._sweeper = threading.Thread(target=self._sweep_regularly, name="unclip-sweep", daemon=True)
        self._sweeper.start()

    def stop(self) -> None:
        """Ends the background sweeps."""
        self._stopped.set()
        if self._sweeper:
            self._sweeper.join()

    def sweep(self) -> None:
        """Removes images whose hour is over, and unfinished files of servers that were killed."""
        size, oldest = 0, time.time() - LIFETIME - GRACE
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith(("img-", UNFINISHED, ".key-")):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_mtime < oldest:
                        os.unlink(entry.path)
                    else:
                        size += status.st_size
                except FileNotFoundError:  # another server on the same folder was quicker
                    continue
        with self._lock:
            self._size = size

    def _sweep_regularly(self) -> None:
        while not self._stopped.wait(SWEEP):
            self.sweep()

    @property
    def full(self) -> bool:
        """Whether the quota or the disk leaves no room for more images."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return True
        return free < RESERVE or (self.quota is not None and self._size >= self.quota)

    def check_room(self) -> None:
        """Refuses a request before anything is drawn for it.

        Raises:
            ApiError: 507 if there is no room for its images.
        """
        if self.full:
            raise _no_room()

    def add(self, data: bytes, kind: str = "png") -> str:
        """Keeps an image and returns the path and query of its URL.

        Args:
            kind: end of its name: png, jpeg or webp.

        Raises:
            ApiError: 507 if it cannot be written.
        """
        name = f"img-{secrets.token_hex(16)}.{kind}"
        try:
            with new_file(self.folder / name) as temporary:
                temporary.write_bytes(data)
        except OSError:
            raise _no_room() from None
        with self._lock:
            self._size += len(data)
        end = int(time.time()) + LIFETIME
        return f"/v1/files/images/{name}?exp={end}&sig={self._signature(name, end)}"

    def find(self, name: str, end: str, signature: str) -> Path:
        """Returns the file that a URL leads to.

        Raises:
            ApiError: the URL was not signed with this key or has expired (403), or the file is gone (404).
        """
        signed = NAME.fullmatch(name) and re.fullmatch(r"[0-9]{1,12}", end)
        if not signed or not hmac.compare_digest(
            self._signature(name, int(end)).encode(), signature.encode()
        ):
            raise ApiError("The signature of this URL is not valid.", status=403)
        if int(end) < time.time():
            raise ApiError("This URL has expired.", status=403)
        path = self.folder / name
        if not path.is_file():
            raise ApiError("This picture is gone.", status=404)
        return path

    def _signature(self, name: str, end: int) -> str:
        return hmac.new(self._key, f"{name}/{end}".encode(), hashlib.sha256).hexdigest()


def _load_key(folder: Path) -> bytes:
    """Reads the folder's key, or creates it: of several servers that start together, one wins and all use its
    key.
    """
    key = folder / ".key"
    if not key.exists():
        temporary = folder / f".key-{secrets.token_hex(8)}"
        temporary.touch(mode=0o600)
        temporary.write_bytes(secrets.token_bytes(32))
        try:
            os.link(temporary, key)  # fails if there is one, unlike a rename
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return key.read_bytes()


def _no_room() -> ApiError:
    return ApiError("The server has no room for images at the moment.", status=507, kind="server_error")

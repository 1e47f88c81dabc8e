"""The interface of frozen CLIP encoders: captions → token states and z_t, images → z_i.

To add a backend, write `unclip/clip/NAME.py` with `def load(name: str) -> Clip`. Its references are `NAME:…`.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import torch
from PIL import Image
from torch import Tensor

from unclip.clip.preprocess import Preprocess
from unclip.errors import CheckpointError, ConfigError
from unclip.files import find_files, read_json
from unclip.images import from_bytes, to_bytes

# The files of a CLIP folder, by the program that saved it.
_FILES = {
    "stage": ("config.json", "model.safetensors"),
    "conversion": ("config.json", "tokenizer.json", "text_encoder/*", "image_encoder/*"),
    "transformers": ("*.json", "*.txt", "*.safetensors"),
    "open_clip": ("*.json", "*.txt", "*.safetensors"),
    None: (),
}


class Text(NamedTuple):
    """Encoded captions.

    Attributes:
        captions: the captions as given, [B] strings.
        ids: token ids, [B, L]; L is the longest caption's length, at most the encoder's context.
        mask: True for real tokens, [B, L].
        embed: the pooled embedding z_t, [B, D], not normalised.
        tokens: the states of the last layer, [B, L, W].
    """

    captions: Sequence[str]
    ids: Tensor
    mask: Tensor
    embed: Tensor
    tokens: Tensor

    def rows(self, start: int | None, stop: int | None) -> Text:
        """The captions from `start` to `stop`."""
        part = slice(start, stop)
        return Text(self.captions[part], self.ids[part], self.mask[part], self.embed[part], self.tokens[part])

    @classmethod
    def plain(cls, captions: Sequence[str]) -> Text:
        """Captions without a CLIP's encoding, for a decoder that encodes them itself: tensors of width 0."""
        n = len(captions)
        ids = torch.zeros(n, 1, dtype=torch.int64)
        return cls(captions, ids, ids.bool(), torch.zeros(n, 0), torch.zeros(n, 1, 0))

    def repeat(self, n: int) -> Text:
        """Each caption repeated n times, in consecutive rows."""
        captions = [c for c in self.captions for _ in range(n)]
        return Text(
            captions, *(x.repeat_interleave(n, dim=0) for x in (self.ids, self.mask, self.embed, self.tokens))
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Text:
        """A copy on another device, with embeddings in another precision."""
        embed, tokens = self.embed.to(device, dtype), self.tokens.to(device, dtype)
        return Text(self.captions, self.ids.to(device), self.mask.to(device), embed, tokens)


class ClipSizes(Protocol):
    """The identity and sizes of a CLIP, from which stages are built."""

    @property
    def identity(self) -> str:
        """A name of the weights; stages trained with one CLIP refuse another."""

    @property
    def width(self) -> int:
        """The width D of z_t and z_i."""

    @property
    def token_width(self) -> int:
        """The width W of the token states."""

    @property
    def context(self) -> int:
        """The largest number of tokens of a caption, with its start and end."""


class Clip(ClipSizes, Protocol):
    """A frozen CLIP. Never an attribute of a stage, so that it is neither trained nor saved with it.

    Attributes:
        reference: the reference that `read_clip` loaded; None for a CLIP made in Python.
    """

    reference: str | None

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of the image tower's input.

        Raises:
            RequestError: the CLIP has no image tower.
        """

    def encode_text(self, captions: Sequence[str]) -> Text:
        """Captions → Text; captions longer than the context are truncated."""

    def truncate(self, caption: str) -> tuple[str, str]:
        """Splits a caption into the part that is read and the part beyond the context."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] of any size and on any device → z_i [B, D], not normalised.

        The images are preprocessed here. For pictures from files use `encode_pictures`, as training does.
        """

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Moves to another device or precision."""


def encode_pictures(clip: Clip, pictures: Sequence[Image.Image]) -> Tensor:
    """z_i [N, D] of RGB pictures of any size; training, stored embeddings and edits all use this function.

    Raises:
        RequestError: the CLIP has no image tower.
    """
    return clip.encode_image(
        from_bytes(torch.stack([to_bytes(clip.preprocess.view(picture)) for picture in pictures]))
    )


def same_clip(recorded: str | None, clip: ClipSizes) -> bool:
    """Whether the identity recorded with a stage or with embeddings is that of this CLIP.

    Earlier versions recorded the reference of a local folder (`hf:PATH`) as its identity. It matches a CLIP
    loaded from that reference.
    """
    return recorded is not None and recorded in (clip.identity, getattr(clip, "reference", None))


def is_backend(ref: str) -> bool:
    """Whether `ref` has the form `backend:name` of other libraries' CLIPs."""
    return ":" in ref and not Path(ref).exists()


def local_weights(ref: str) -> Path | None:
    """The local folder or file with the weights of `backend:name`; None for public weights."""
    name = ref.partition(":")[2].removeprefix("local-dir:")
    paths = (Path(name), Path(name.partition("/")[2] or name))
    return next((path for path in paths if path.exists()), None)


def is_clip(folder: Path) -> bool:
    """Whether the folder is a CLIP saved by the CLIP stage, a conversion, transformers or open_clip."""
    return _saved_by(folder) is not None


def copy_clip(folder: Path, out: Path) -> None:
    """Copies a CLIP's files to `out`, without other files such as optimizer state or pickled weights."""
    for pattern in _FILES[_saved_by(folder)]:
        for path in find_files(folder, pattern):
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def read_clip(ref: str) -> Clip:
    """Loads the CLIP of a folder or of another library (`backend:name`).

    `unclip.load_clip` accepts more kinds of references.

    Raises:
        CheckpointError: no CLIP there, or a damaged one.
        ConfigError: an unknown backend.
    """
    clip = _read_backend(ref) if is_backend(ref) else _read_folder(Path(ref))
    clip.reference = ref
    return clip


def _read_folder(folder: Path) -> Clip:
    saved_by = _saved_by(folder)
    if saved_by is None:
        raise CheckpointError(
            f"{folder}: no CLIP there; give a folder saved by the CLIP stage, openclip:NAME/TAG or hf:NAME"
        )
    if saved_by == "conversion":
        if not (folder / "text_encoder").is_dir():
            from unclip.clip import image_only

            return image_only.load_folder(folder)
        from unclip.clip import converted

        return converted.load_folder(folder)
    if saved_by == "transformers":
        from unclip.clip import hf

        return hf.load(str(folder))
    if saved_by == "stage":
        from unclip.clip import trained

        return trained.load_folder(folder)
    from unclip.clip import openclip

    return openclip.load(str(folder))


def _read_backend(ref: str) -> Clip:
    backend, _, name = ref.partition(":")
    module = f"{__name__}.{backend}"
    known = backend.isidentifier() and importlib.util.find_spec(module) is not None
    load = getattr(importlib.import_module(module), "load", None) if known else None
    if load is None:
        raise ConfigError(f"{ref}: no CLIP backend {backend!r}; there are openclip, hf")
    clip: Clip = load(name)
    return clip


def _saved_by(folder: Path) -> str | None:
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    tree = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if tree.get("kind") == "clip":
        encoders = (folder / name for name in ("text_encoder", "image_encoder"))
        return "conversion" if any(encoder.is_dir() for encoder in encoders) else "stage"
    return "transformers" if tree.get("model_type") == "clip" else None

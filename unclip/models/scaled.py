"""References of LoRA adapters with a scale, as `--lora` takes them. Does not import torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from unclip.errors import RequestError


class ScaledReference(NamedTuple):
    """An adapter's reference, PATH[:SCALE], and the factor of its change of the weights."""

    ref: str
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> ScaledReference:
        """Read PATH or PATH:SCALE.

        Raises:
            RequestError: the scale is not a number.
        """
        ref, colon, tail = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(text)
        try:
            scale = float(tail)
        except ValueError:
            if Path(ref).exists() or _is_id(ref):
                raise RequestError(f"--lora {text}: the scale {tail!r} is not a number") from None
            return cls(text)
        return cls(ref, check_scale(scale, text))

    def check_exists(self) -> ScaledReference:
        """Check that the reference names a local file or folder, or may be on the Hub.

        Raises:
            RequestError: there is nothing of that name.
        """
        if not Path(self.ref).exists() and not _is_id(self.ref):
            raise RequestError(
                f"--lora {self.ref}: no such adapter; give a run, its folder or a .safetensors"
            )
        return self


def check_scale(scale: float, where: str) -> float:
    """The scale; RequestError if it is infinite or not a number."""
    if not math.isfinite(scale):
        raise RequestError(f"--lora {where}: the scale {scale} is not a finite number")
    return scale


def _is_id(ref: str) -> bool:
    from unclip.models import hub  # pydantic, which `unclip --help` does not need

    return hub.is_id(ref)

"""Rendering of scenes with Skia. Only this package imports `skia`.

Importing it without Skia raises a RequestError that says how to install it.
"""

from __future__ import annotations

from unclip.errors import RequestError

try:
    import skia  # noqa: F401
except ModuleNotFoundError:
    raise RequestError(
        'the menagerie is drawn with Skia; install it with: pip install "unclip[menagerie]"'
    ) from None
except ImportError as error:  # skia-python links to libEGL and libGL, although it opens no window
    raise RequestError(
        f"Skia cannot be loaded ({error}); on Debian or Ubuntu: apt-get install libegl1 libgl1"
    ) from None

from unclip.menagerie.drawing.render import draw

__all__ = ["draw"]

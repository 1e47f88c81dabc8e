"""Makes torchvision importable with a torch build that it was not compiled for.

open_clip and transformers import torchvision. With another build of torch (usually the CPU build) its C++
operators do not load, and the import fails with `operator torchvision::nms does not exist`, although this
package does not call that operator. Declaring the two missing schemas first is enough. With matching builds
the operators load, and nothing is declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # the declaration lasts as long as this object


def declare_missing_schemas() -> None:
    """Declares the schemas if the operators do not load; call it before torchvision is imported."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared or hasattr(torch.ops.torchvision, "nms"):
        return
    for extension in (*Path(spec.origin).parent.glob("_C*.so"), *Path(spec.origin).parent.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)

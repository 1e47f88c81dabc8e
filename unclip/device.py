"""Which device there is, which precision it is quick in, and which processes work together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

PEAK_TFLOPS = {"B200": 2250.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}


def best_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU, whichever is there first."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def join_processes() -> PartialState:
    """This process among those that were launched together; the first thing to ask accelerate for.

    On a machine without an accelerator they meet by gloo. Unless told so, accelerate takes each of them for
    the only one there, and each would write over what the others write.
    """
    from accelerate import PartialState  # half a second that a picture on one device need not wait for
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=best_device().type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))


def quick_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there. A CPU without instructions for it emulates, 10 to 100
    times slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second by the maker's data sheet, where the device is known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((tera * 1e12 for known, tera in PEAK_TFLOPS.items() if known in name), None)

"""Which device there is, and which precision it is quick in."""

from __future__ import annotations

import torch

PEAK_TFLOPS = {"B200": 2250.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}


def best_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU, whichever is there first."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def quick_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there. A CPU without instructions for it emulates, 10 to 100 times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second by the maker's data sheet, where the device is known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((tera * 1e12 for known, tera in PEAK_TFLOPS.items() if known in name), None)

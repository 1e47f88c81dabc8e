"""The device, its fast precision, and the processes of a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

PEAK_TFLOPS = {"B200": 2250.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}


def best_device() -> torch.device:
    """The first available of CUDA, Apple's GPU and the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def join_processes() -> PartialState:
    """Joins the processes of this launch; call it before any other use of accelerate.

    Without an accelerator the processes use gloo. accelerate must be told so: otherwise each process believes
    it is the only one, and they overwrite each other's files.
    """
    from accelerate import PartialState  # the import takes half a second, which inference does not need
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=best_device().type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))


def quick_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on the device; CPUs that emulate it are 10 to 100× slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second by the data sheet; None for an unknown device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((tflops * 1e12 for model, tflops in PEAK_TFLOPS.items() if model in name), None)

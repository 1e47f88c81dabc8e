"""Stable unCLIP 2.1 at full size in unclip and diffusers: loading, seconds per step and memory.

    python tools/benchmarks/stable_unclip.py make /big/disk/stable   # once: 8 GB in each layout
    python tools/benchmarks/stable_unclip.py run /big/disk/stable    # all cases, then the table
    python tools/benchmarks/stable_unclip.py run /big/disk/stable --size 384 --case ours-float32
    python tools/benchmarks/stable_unclip.py table /big/disk/stable  # of what was measured before

Each case decodes one image embedding in a process of its own, with weights that are not in the page cache.
`load` lasts from the start of Python to the first step. A step is one guided evaluation of the U-Net; the
total is that of STEPS steps. Seconds are CPU seconds of all threads, so set OMP_NUM_THREADS=1 on a busy
machine. `ours` runs with offload=True, diffusers in bfloat16 with channels_last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()  # before importing diffusers

CASES = ("theirs-float32", "ours-float32", "theirs-bfloat16", "ours-bfloat16")
STEPS, WALKED = 20, 1  # steps of a picture, and steps that are measured
PROMPT = "a shiba inu wearing a beret"
GIB = 2**30


def make(folder: Path) -> None:
    """Save random weights in both layouts, with one network in memory at a time."""
    import diffusers
    import transformers
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )
    from karlo import forget, save_tokenizer
    from stable_unclip_networks import BUILDERS, EMBED

    from unclip.models.convert import convert

    theirs = folder / "theirs"
    save_tokenizer(theirs / "tokenizer")
    index: dict[str, Any] = {
        "_class_name": "StableUnCLIPImg2ImgPipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    builders: dict[str, Callable[[], Any]] = {name: BUILDERS[name] for name in ("unet", "vae")}
    builders |= {name: BUILDERS[name] for name in ("text_encoder", "image_encoder")}
    builders["image_normalizer"] = lambda: StableUnCLIPImageNormalizer(EMBED[""])
    for name, build in builders.items():
        torch.manual_seed(len(index))
        module = build()
        module.save_pretrained(theirs / name, max_shard_size="20GB")
        forget(theirs / name)
        library = {"text_encoder": "transformers", "image_encoder": "transformers"}.get(name, "diffusers")
        kind = "stable_diffusion" if name == "image_normalizer" else library
        index[name] = [kind, type(module).__name__]
        del module
        print(f"{name}: made", flush=True)
    latent = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    for name, scheduler in (
        ("scheduler", diffusers.DDIMScheduler(**latent, prediction_type="v_prediction", clip_sample=False)),
        ("image_noising_scheduler", diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
    ):
        scheduler.save_pretrained(theirs / name)
        index[name] = ["diffusers", type(scheduler).__name__]
    transformers.CLIPImageProcessor().save_pretrained(theirs / "feature_extractor")
    (theirs / "model_index.json").write_text(json.dumps(index))
    convert(theirs, folder / "ours", parity=True)
    forget(folder)


def timed(module: nn.Module, method: str, seconds: list[float], first: Callable[[], None]) -> None:
    """Record the CPU seconds of each call of a module's method; `first` is called before the first one."""
    inner = getattr(module, method)

    def outer(*given: Any, **named: Any) -> Any:
        if not seconds:
            first()
        begun = time.process_time()
        out = inner(*given, **named)
        seconds.append(time.process_time() - begun)
        return out

    setattr(module, method, outer)


def measure(folder: Path, case: str, size: int, started: float) -> dict[str, Any]:
    """Load the model and decode one embedding in this process."""
    side, _, name = case.partition("-")
    dtype: torch.dtype = getattr(torch, name)
    width = json.loads((folder / "theirs" / "image_normalizer" / "config.json").read_text())["embedding_dim"]
    z_i = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    steps: list[float] = []
    decoded: list[float] = []
    loaded: list[float] = []

    def first() -> None:
        loaded.extend((time.process_time(), time.time() - started))

    if side == "ours":
        from unclip import Pipeline

        mine = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", dtype=dtype, offload=True)
        stage: Any = mine.decoder
        timed(stage.network, "forward", steps, first)
        timed(stage.autoencoder, "decode", decoded, lambda: None)
        mine.decode(z_i, PROMPT, seed=0, size=size, options={"decoder": {"steps": WALKED}})
    else:
        from diffusers import StableUnCLIPImg2ImgPipeline

        pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(folder / "theirs", torch_dtype=dtype)
        if dtype is torch.bfloat16:  # its best setting; ours always has it
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.vae.to(memory_format=torch.channels_last)
        timed(pipe.unet, "forward", steps, first)
        timed(pipe.vae, "decode", decoded, lambda: None)
        given = {"image_embeds": z_i.to(dtype), "height": size, "width": size}
        pipe(prompt=PROMPT, num_inference_steps=WALKED, **given)
    whole = time.process_time()
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "case": case,
        "size": size,
        "load": loaded[0],
        "wall": loaded[1],
        "step": min(steps),
        "autoencoder": sum(decoded),
        "total": STEPS * min(steps) + whole - loaded[0] - sum(steps),
        "peak": next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")),
        "threads": torch.get_num_threads(),
    }


def run(folder: Path, cases: Sequence[str], size: int) -> None:
    """Measure each case in a fresh process. Appends the results to FOLDER/results.jsonl."""
    from karlo import forget

    for case in cases:
        forget(folder)
        command = [sys.executable, __file__, "measure", str(folder), "--case", case, "--size", str(size)]
        command += ["--started", str(time.time())]
        # One thread pool per process, as the parent was asked for.
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        with (folder / "results.jsonl").open("a") as results:
            results.write(done.stdout.splitlines()[-1] + "\n")


def table(folder: Path) -> None:
    """Print the newest result of each case and size."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    results = {(result["size"], result["case"]): result for result in map(json.loads, lines)}
    print(f"| Size | Case | Load | Load, wall | Step | Autoencoder | {STEPS} steps | Peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for (size, case), r in sorted(results.items()):
        print(
            f"| {size} | {case} | {r['load']:.0f} | {r['wall']:.0f} | {r['step']:.1f} | "
            f"{r['autoencoder']:.1f} | {r['total']:.0f} | {r['peak'] / GIB:.1f} |"
        )


def main() -> None:
    """Make the weights, measure or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "verb", choices=["make", "run", "table", "measure"], help="measure is one case in this process"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", choices=CASES, help="only these")
    parser.add_argument("--size", type=int, default=768, help="side of the picture in pixels")
    parser.add_argument("--started", type=float, default=time.time(), help="when the process was asked for")
    options = parser.parse_args()
    if options.verb == "make":
        make(options.folder)
    elif options.verb == "measure":
        print(json.dumps(measure(options.folder, options.case[0], options.size, options.started)))
    else:
        if options.verb == "run":
            run(options.folder, options.case or CASES, options.size)
        table(options.folder)


if __name__ == "__main__":
    main()

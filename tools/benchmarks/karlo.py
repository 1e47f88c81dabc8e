"""Karlo at full size in unclip and diffusers: seconds per step, load time and memory.

    python tools/benchmarks/karlo.py make /big/disk/karlo    # once: 14 GB in diffusers' layout, 14 GB in ours
    python tools/benchmarks/karlo.py run /big/disk/karlo     # all of it, then the table
    python tools/benchmarks/karlo.py run /big/disk/karlo --case theirs-float32 --part decoder
    python tools/benchmarks/karlo.py table /big/disk/karlo   # of what was measured before

Each part of each case runs in its own process, with files that are not in the page cache. `load` lasts from
the start of Python to the end of the prior's first step. The other parts are evaluations of one network with
guidance; the minimum counts. Seconds are CPU seconds of all threads, so set OMP_NUM_THREADS=1 on a busy
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()  # before importing diffusers

WHOLE = {"prior": 25, "decoder": 25, "upsampler": 7}  # Karlo's own
FAST = {"prior": 10, "decoder": 12, "upsampler": 6}  # --steps fast
CASES = ("theirs-float32", "ours-float32", "ours-bfloat16")
PARTS = ("load", *WHOLE)
NAMES = {"prior": "prior", "decoder": "decoder", "upsampler": "super_res_first"}  # in diffusers' layout
CALLS = {"prior": 3, "decoder": 1, "upsampler": 1}
PROMPT = "a shiba inu wearing a beret"
LENGTH = 12  # tokens of a caption; diffusers pads to 77, we to the longest of the batch
GIB = 2**30


def make(folder: Path) -> None:
    """Save random weights in both layouts, with one network in memory at a time."""
    from karlo_networks import (
        build_decoder,
        build_prior,
        build_projection,
        build_text_encoder,
        build_upsampler,
    )

    from unclip.models.convert import convert

    theirs = folder / "theirs"
    end = save_tokenizer(theirs / "tokenizer")
    builders: dict[str, Callable[[], Any]] = {
        "prior": build_prior,
        "decoder": build_decoder,
        "text_proj": build_projection,
        "super_res_first": build_upsampler,
        "super_res_last": build_upsampler,
        "text_encoder": lambda: build_text_encoder(end),
    }
    index: dict[str, Any] = {"_class_name": "UnCLIPPipeline", "tokenizer": ["transformers", "CLIPTokenizer"]}
    for name, build in builders.items():
        torch.manual_seed(len(index))
        module = build()
        if name == "prior":  # diffusers' zeros would erase z_i
            module.clip_mean.data.normal_(std=0.1)
            module.clip_std.data.uniform_(0.3, 0.4)
        module.save_pretrained(theirs / name, max_shard_size="20GB")
        print(f"{name}: made", flush=True)
        forget(theirs / name)
        library = {"text_encoder": "transformers"}.get(name, "diffusers")
        if name == "text_proj":  # published as "unclip", which diffusers would take for this package
            library = type(module).__module__
        index[name] = [library, type(module).__name__]
    index |= save_schedulers(theirs)
    (theirs / "model_index.json").write_text(json.dumps(index))
    convert(theirs, folder / "ours", parity=True)
    forget(folder)


def save_tokenizer(folder: Path) -> int:
    """Save a tokenizer of single letters, which needs no download. Returns the id of its end token."""
    import transformers

    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(tokenizer.eos_token_id)


def save_schedulers(folder: Path) -> dict[str, list[str]]:
    """Save Karlo's three schedulers. Returns their entries of model_index.json."""
    import diffusers

    index = {}
    for name, variance, predict, bound in (
        ("prior_scheduler", "fixed_small_log", "sample", 5.0),
        ("decoder_scheduler", "learned_range", "epsilon", 1.0),
        ("super_res_scheduler", "fixed_small_log", "epsilon", 1.0),
    ):
        scheduler = diffusers.UnCLIPScheduler(
            variance_type=variance, prediction_type=predict, clip_sample_range=bound, num_train_timesteps=1000
        )
        scheduler.save_pretrained(folder / name)
        index[name] = ["diffusers", "UnCLIPScheduler"]
    return index


def forget(folder: Path) -> None:
    """Remove the folder's weights from the page cache."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def draw(*shape: int) -> Tensor:
    """Deterministic normal input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def theirs(folder: Path, part: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """One evaluation of diffusers' network, loaded as its pipeline loads it."""
    import diffusers

    kinds = {"prior": "PriorTransformer", "decoder": "UNet2DConditionModel", "upsampler": "UNet2DModel"}
    network = getattr(diffusers, kinds[part]).from_pretrained(
        folder / "theirs" / NAMES[part], torch_dtype=dtype
    )
    seen = torch.arange(81)[None] < LENGTH
    if part == "prior":
        given = (draw(2, 768), 500, draw(2, 768), draw(2, 77, 768), seen[:, :77].repeat(2, 1))
        yield lambda: network(
            *(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
        )
    elif part == "decoder":
        x, context, embed = (y.to(dtype) for y in (draw(2, 3, 64, 64), draw(2, 81, 1536), draw(2, 1280)))
        yield lambda: network(x, 500, context, class_labels=embed, attention_mask=seen.repeat(2, 1))
    else:
        pixels = draw(1, 6, 256, 256).to(dtype)
        yield lambda: network(pixels, 500)


@contextmanager
def ours(folder: Path, part: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """One evaluation of our network in a model loaded with offload=True."""
    from unclip import Pipeline

    pipe = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", dtype=dtype, offload=True)
    stage: Any = {"prior": pipe.prior, "decoder": pipe.decoder, "upsampler": pipe.upsamplers[0]}[part]
    text = {
        "text_embed": draw(2, 768),
        "tokens": draw(2, LENGTH, 768),
        "mask": torch.ones(2, LENGTH, dtype=torch.bool),
    }
    times = torch.full((2,), 500)
    more = {"image_embed": draw(2, 768), "ids": torch.zeros(2, LENGTH, dtype=torch.int64)}
    with stage.in_place():
        if part == "prior":
            yield lambda: stage.network(draw(2, 768), times, **text)
        elif part == "decoder":
            yield lambda: stage.network(draw(2, 3, 64, 64), times, **text, **more)
        else:
            yield lambda: stage.network(draw(1, 3, 256, 256), times[:1], low=draw(1, 3, 256, 256))


class FirstStep(Exception):
    """Raised after the first evaluation of the prior."""


def load(folder: Path, side: str, dtype: torch.dtype) -> None:
    """Load the model and run until the first step of the prior has ended."""

    def stop(*_: object) -> None:
        raise FirstStep

    with suppress(FirstStep):
        if side == "ours":
            from unclip import Pipeline

            mine = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", dtype=dtype, offload=True)
            assert mine.prior is not None
            mine.prior.network.register_forward_hook(stop)
            mine.generate(PROMPT, seed=0)
        else:
            from diffusers import UnCLIPPipeline

            pipe = UnCLIPPipeline.from_pretrained(folder / "theirs", torch_dtype=dtype)
            pipe.prior.register_forward_hook(stop)
            pipe(PROMPT)


def measure(folder: Path, case: str, part: str, started: float) -> dict[str, Any]:
    """Measure one part in this process."""
    side, _, name = case.partition("-")
    dtype: torch.dtype = getattr(torch, name)
    seconds = []
    with torch.inference_mode():
        if part == "load":
            load(folder, side, dtype)
            seconds.append(time.process_time())
        else:
            with (theirs if side == "theirs" else ours)(folder, part, dtype) as evaluate:
                for _ in range(CALLS[part]):
                    begun = time.process_time()
                    evaluate()
                    seconds.append(time.process_time() - begun)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return {
        "case": case,
        "part": part,
        "seconds": min(seconds),
        "wall": time.time() - started,
        "peak": peak,
        "threads": torch.get_num_threads(),
    }


def run(folder: Path, cases: Sequence[str], parts: Sequence[str]) -> None:
    """Measure each part and case in a fresh process. Appends the results to FOLDER/results.jsonl."""
    for part in parts:
        for case in cases:
            forget(folder)
            command = [sys.executable, __file__, "measure", str(folder), "--case", case, "--part", part]
            command += ["--started", str(time.time())]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[
                -1
            ]
            with (folder / "results.jsonl").open("a") as results:
                results.write(line + "\n")


def table(folder: Path) -> None:
    """Print the newest result of each part, and the time of whole images by their number of steps."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    results = {(result["case"], result["part"]): result for result in map(json.loads, lines)}
    weights = {path: path.stat().st_size for path in (folder / "theirs").rglob("*.safetensors")}
    print("| Case | Steps | Prior | Decoder | Upsampler | Picture | Load | Load, wall | Peak GiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        mine = {part: results[case, part] for part in PARTS if (case, part) in results}
        if len(mine) < len(PARTS):
            continue
        peak = max(mine[part]["peak"] for part in mine)
        if case.startswith("theirs"):  # all components at once, of which one part's process held one
            own = {
                part: weights[folder / f"theirs/{name}/diffusion_pytorch_model.safetensors"]
                for part, name in NAMES.items()
            }
            peak = sum(weights.values()) + max(mine[part]["peak"] - own[part] for part in own)
        for steps in (WHOLE, FAST) if case == "ours-bfloat16" else (WHOLE,):
            picture = sum(n * mine[role]["seconds"] for role, n in steps.items())
            each = " | ".join(f"{mine[role]['seconds']:.2f}" for role in steps)
            loading = f"{mine['load']['seconds']:.0f} | {mine['load']['wall']:.0f}"
            print(
                f"| {case} | {'+'.join(map(str, steps.values()))} | {each} | {picture:.0f} | {loading} | "
                f"{peak / GIB:.1f} |"
            )


def main() -> None:
    """Make the weights, measure or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "verb", choices=["make", "run", "table", "measure"], help="measure is one part in this process"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", choices=CASES, help="only these")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these")
    parser.add_argument("--started", type=float, default=time.time(), help="when the process was asked for")
    options = parser.parse_args()
    if options.verb == "make":
        make(options.folder)
    elif options.verb == "measure":
        print(json.dumps(measure(options.folder, options.case[0], options.part[0], options.started)))
    else:
        if options.verb == "run":
            run(options.folder, options.case or CASES, options.part or PARTS)
        table(options.folder)


if __name__ == "__main__":
    main()

"""Kandinsky 2.2 at full size in unclip and diffusers: seconds per step, load time and memory, at 512 px.

    python tools/benchmarks/kandinsky.py make DIR    # once: 12 GB in diffusers' layout, 12 GB in ours
    python tools/benchmarks/kandinsky.py run DIR     # all of it, then the table
    python tools/benchmarks/kandinsky.py run DIR --case ours-bfloat16 --part decoder
    python tools/benchmarks/kandinsky.py table DIR   # of what was measured before
    python tools/benchmarks/kandinsky.py quick       # U-Net and MoVQ without files, in both memory layouts

Each part of each case runs in its own process, with files that are not in the page cache; at most 10 GB of
memory are used. `prior` and `decoder` are one evaluation with guidance, `movq` decodes one latent, and the
minimum counts. A picture is seconds per step × steps. Seconds are CPU seconds of all threads, so set
OMP_NUM_THREADS=1 on a busy machine. `load` lasts from the start of Python until the networks of a prompt are
in memory, one after the other. bfloat16 of diffusers is with channels_last, as ours always is.

CLIP's image encoder (1.84 of 4.89 billion parameters) is made in small: no prompt needs it. diffusers loads
it with the prior; its weights are added to the peak memory of diffusers, its time to nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from karlo import GIB, draw, forget, save_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()  # before importing diffusers

# Steps of the prior and the decoder: diffusers' defaults, which unclip has too, and unclip's.
THEIRS, OURS = {"prior": 25, "decoder": 100, "movq": 1}, {"prior": 25, "decoder": 25, "movq": 1}
CASES = ("theirs-float32", "theirs-bfloat16", "ours-float32", "ours-bfloat16")
PARTS = ("load", "prior", "decoder", "movq")
CALLS = {"prior": 3, "decoder": 2, "movq": 2}
PRIOR, DECODER = "kandinsky-2-2-prior", "kandinsky-2-2-decoder"
PLACES = {"prior": f"{PRIOR}/prior", "decoder": f"{DECODER}/unet", "movq": f"{DECODER}/movq"}
CLASSES = {"prior": "PriorTransformer", "decoder": "UNet2DConditionModel", "movq": "VQModel"}
LENGTH, WIDTH = 12, 1280  # tokens of a caption, of 77 that diffusers computes; width of CLIP
IMAGE_ENCODER = 1_844_907_264  # parameters
PROMPT = "a shiba inu wearing a beret"

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 8,
    "block_out_channels": (384, 768, 1152, 1536),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_dim": 768,
    "encoder_hid_dim": WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}
MOVQ: dict[str, Any] = {
    "latent_channels": 4,
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 4,
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 2,
    "down_block_types": (*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
    "norm_type": "spatial",
}


def make(folder: Path) -> None:
    """Save random weights in both layouts, with one network in memory at a time."""
    import diffusers
    import transformers

    from unclip.models.convert import convert

    prior, decoder = folder / "theirs" / PRIOR, folder / "theirs" / DECODER
    end = save_tokenizer(prior / "tokenizer")
    text = {"hidden_act": "gelu", "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    big = {
        "hidden_size": WIDTH,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    }
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    shape = {"projection_dim": WIDTH}
    builders: dict[Path, Callable[[], Any]] = {
        prior / "prior": lambda: diffusers.PriorTransformer(embedding_dim=WIDTH),
        prior / "text_encoder": lambda: transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**text, **big, **shape)
        ),
        prior / "image_encoder": lambda: transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**small, **shape)
        ),
        decoder / "unet": lambda: diffusers.UNet2DConditionModel(**UNET),
        decoder / "movq": lambda: diffusers.VQModel(**MOVQ),
    }
    for number, (place, build) in enumerate(builders.items()):
        torch.manual_seed(number)
        module = build()
        if place.name == "prior":  # diffusers' zeros would erase z_i
            module.clip_mean.data.normal_(std=0.1)
            module.clip_std.data.uniform_(0.3, 0.4)
        module.save_pretrained(place, max_shard_size="20GB")
        del module
        forget(place)
        print(f"{place.name}: made", flush=True)
    transformers.CLIPImageProcessor().save_pretrained(prior / "image_processor")
    diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0).save_pretrained(
        prior / "scheduler"
    )
    diffusers.DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        variance_type="learned_range",
        clip_sample=False,
    ).save_pretrained(decoder / "scheduler")
    for place, name in ((prior, "KandinskyV22PriorPipeline"), (decoder, "KandinskyV22Pipeline")):
        (place / "model_index.json").write_text(json.dumps({"_class_name": name}))
    convert(decoder, folder / "ours")
    forget(folder)


@contextmanager
def theirs(folder: Path, part: str, dtype: torch.dtype) -> Iterator[Callable[[], Tensor]]:
    """One evaluation of diffusers' network, loaded as its pipeline loads it."""
    import diffusers

    network = getattr(diffusers, CLASSES[part]).from_pretrained(
        folder / "theirs" / PLACES[part], torch_dtype=dtype
    )
    if dtype == torch.bfloat16:
        network.to(memory_format=torch.channels_last)
    if part == "prior":
        tokens = torch.zeros(2, 77, WIDTH)
        tokens[:, :LENGTH] = draw(2, LENGTH, WIDTH)
        seen = (torch.arange(77)[None] < LENGTH).repeat(2, 1)
        x, text, tokens = draw(2, WIDTH).to(dtype), draw(2, WIDTH).to(dtype), tokens.to(dtype)
        yield lambda: network(x, 500, text, tokens, seen).predicted_image_embedding
    elif part == "decoder":
        x, z_i = draw(2, 4, 64, 64).to(dtype), draw(2, WIDTH).to(dtype)
        yield lambda: network(x, 500, None, added_cond_kwargs={"image_embeds": z_i}).sample
    else:
        x = draw(1, 4, 64, 64).to(dtype)
        yield lambda: network.decode(x, force_not_quantize=True).sample


@contextmanager
def ours(folder: Path, part: str, dtype: torch.dtype) -> Iterator[Callable[[], Tensor]]:
    """One evaluation of our network in a model loaded with offload=True."""
    from unclip import Pipeline

    pipe = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", dtype=dtype, offload=True)
    stage: Any = pipe.prior if part == "prior" else pipe.decoder
    times = torch.full((2,), 500)
    if part == "movq":
        yield lambda: stage.render(draw(1, 4, 64, 64))
        return
    with stage.in_place(stage.walked):
        if part == "prior":
            text = {"text_embed": draw(2, WIDTH), "tokens": draw(2, LENGTH, WIDTH)}
            mask = torch.ones(2, LENGTH, dtype=torch.bool)
            yield lambda: stage.network(draw(2, WIDTH), times, **text, mask=mask)
        else:
            yield lambda: stage.network(draw(2, 4, 64, 64), times, image_embed=draw(2, WIDTH))


def load(folder: Path, side: str, dtype: torch.dtype) -> None:
    """Load what a prompt needs, with one network in memory at a time."""
    if side == "ours":
        from unclip import Pipeline

        pipe = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", dtype=dtype, offload=True)
        pipe.clip.encode_text([PROMPT])
        stages: Any = (pipe.prior, pipe.decoder)
        for stage in stages:
            with stage.in_place():
                pass
        return
    import diffusers
    import transformers

    for part, place in PLACES.items():
        getattr(diffusers, CLASSES[part]).from_pretrained(folder / "theirs" / place, torch_dtype=dtype)
    transformers.CLIPTextModelWithProjection.from_pretrained(
        folder / "theirs" / PRIOR / "text_encoder", dtype=dtype
    )


def measure(folder: Path, case: str, part: str, started: float) -> dict[str, Any]:
    """Measure one part in this process, and save what the network computed."""
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
                    made = evaluate()
                    seconds.append(time.process_time() - begun)
            save_file({"made": made.float().contiguous()}, folder / f"{case}-{part}.safetensors")
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


def quick(part: str, dtype: torch.dtype) -> None:
    """Time one network with random weights as diffusers runs it and in channels_last, as unclip does.

    Both run the same modules, so nothing else differs in one evaluation.
    """
    import diffusers

    with torch.device("meta"):
        network: Any = (
            diffusers.UNet2DConditionModel(**UNET) if part == "decoder" else diffusers.VQModel(**MOVQ)
        )
    network = network.to(dtype).to_empty(device="cpu").eval()
    for parameter in network.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    batch = 2 if part == "decoder" else 1
    x, added = draw(batch, 4, 64, 64).to(dtype), {"image_embeds": draw(2, WIDTH).to(dtype)}
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        begun = time.process_time()
        with torch.inference_mode():
            if part == "decoder":
                network(x, 500, None, added_cond_kwargs=added)
            else:
                network.decode(x, force_not_quantize=True)
        print(part, dtype, layout, f"{time.process_time() - begun:.2f} s", flush=True)


def run(folder: Path, cases: Sequence[str], parts: Sequence[str]) -> None:
    """Measure each part and case in a fresh process. Appends the results to FOLDER/results.jsonl."""
    for part in parts:
        for case in cases:
            forget(folder)
            command = [sys.executable, __file__, "measure", str(folder), "--case", case, "--part", part]
            command += ["--started", str(time.time())]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(line := output.splitlines()[-1], flush=True)
            with (folder / "results.jsonl").open("a") as results:
                results.write(line + "\n")


def peak_memory(case: str, results: dict[str, Any], folder: Path) -> float:
    """Peak memory in bytes: ours holds one network at a time, diffusers all of them."""
    if case.startswith("ours"):
        return max(result["peak"] for result in results.values())
    size = 4 if case.endswith("-float32") else 2
    files = {path.parent: path.stat().st_size for path in (folder / "theirs").rglob("*.safetensors")}
    own = {part: files[folder / "theirs" / place] * size / 4 for part, place in PLACES.items()}
    weights = sum(files.values()) * size / 4 + IMAGE_ENCODER * size
    return weights + max(results[part]["peak"] - own[part] for part in own if part in results)


def difference(case: str, part: str, folder: Path) -> str:
    """Largest difference from diffusers' float32, relative to its largest value."""
    paths = [folder / f"{one}-{part}.safetensors" for one in (case, CASES[0])]
    if not all(path.is_file() for path in paths):
        return "–"
    made, wanted = (load_file(path)["made"] for path in paths)
    return f"{((made - wanted).abs().max() / wanted.abs().max()).item():.1e}"


def table(folder: Path) -> None:
    """Print the newest result of each part, and the time of whole pictures by their number of steps."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    results = {(result["case"], result["part"]): result for result in map(json.loads, lines)}
    print("| Case | Steps | Prior | Decoder | MoVQ | Picture | Load | Load, wall | Peak GiB | Differences |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        mine = {part: results[case, part] for part in PARTS if (case, part) in results}
        if len(mine) < len(PARTS):
            continue
        differences = ", ".join(difference(case, part, folder) for part in THEIRS)
        for steps in (THEIRS, OURS):
            picture = sum(n * mine[part]["seconds"] for part, n in steps.items())
            each = " | ".join(f"{mine[part]['seconds']:.2f}" for part in steps)
            loading = f"{mine['load']['seconds']:.0f} | {mine['load']['wall']:.0f}"
            print(
                f"| {case} | {steps['prior']}+{steps['decoder']} | {each} | {picture:.0f} | {loading} | "
                f"{peak_memory(case, mine, folder) / GIB:.1f} | {differences} |"
            )


def main() -> None:
    """Make the weights, measure or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "verb",
        choices=["make", "run", "table", "measure", "quick"],
        help="measure and quick are one part in this process",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("."))
    parser.add_argument("--case", action="append", choices=CASES, help="only these")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these")
    parser.add_argument("--started", type=float, default=time.time(), help="when the process was asked for")
    options = parser.parse_args()
    if options.verb == "make":
        make(options.folder)
    elif options.verb == "quick":
        for case in options.case or ("theirs-float32", "theirs-bfloat16"):
            for part in options.part or ("movq", "decoder"):
                quick(part, getattr(torch, case.partition("-")[2]))
    elif options.verb == "measure":
        print(json.dumps(measure(options.folder, options.case[0], options.part[0], options.started)))
    else:
        if options.verb == "run":
            run(options.folder, options.case or CASES, options.part or PARTS)
        table(options.folder)


if __name__ == "__main__":
    main()

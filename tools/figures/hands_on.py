"""Make the images of docs/how-to/edit.md and docs/explanation/probing.md, and print the probes' figures.

python tools/figures/hands_on.py --out docs/images
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from unclip.images import grid
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import load_judge
from unclip.menagerie.scene import SUBJECTS, Scene, sample
from unclip.pipeline import Pipeline, SamplingOptions
from unclip.pipeline.call import Call

SEED, SIZE, SHOWN = 78, 256, 96  # of a stream of scenes of its own; sides drawn and shown, in pixels
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
COLOURS = ("red", "blue", "yellow", "green")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--count", type=int, default=24, help="renderings per figure of the probes")
    parser.add_argument(
        "--fitted", type=int, default=400, help="renderings that the principal components are found on"
    )
    parser.add_argument("--only", choices=["hands-on", "probing"], help="one page's pictures instead of both")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model)
    if args.only != "probing":
        write(hands_on(pipe), args.out / "hands-on.webp")
    if args.only != "hands-on":
        rows = [*components(pipe, args.fitted), typographic(pipe, args.count), binding(pipe, args.count)]
        write(rows, args.out / "probing.webp")


def write(rows: Sequence[Sequence[Image.Image]], path: Path) -> None:
    width = max(len(row) for row in rows)
    blank = Image.new("RGB", (SHOWN, SHOWN), "white")
    cells = [
        image.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        for row in rows
        for image in [*row, *[blank] * width][:width]
    ]
    grid(cells, columns=width).save(path, quality=88)
    print(path, flush=True)


def hands_on(pipe: Pipeline) -> list[list[Image.Image]]:
    """A row for each command, which begins with the input image."""
    fox, panda = (
        pipe(prompt, seed=7, size=SIZE).images[0]
        for prompt in ("a fox wearing a red crown in the snow", "a panda wearing a blue top hat on the beach")
    )
    wide = {"size": SIZE, "seed": 1}
    mask = Image.new("L", fox.size, 0)
    ImageDraw.Draw(mask).rectangle((40, 0, 216, 100), fill=255)
    hole = fox.copy()
    hole.paste("white", mask=mask)
    diff = ("a fox in the snow", "a fox in the city at night")
    small = fox.resize((64, 64), Image.Resampling.LANCZOS)
    prompts = ["a fox wearing a red crown", "a panda in space"]
    shares = [i / 5 for i in range(6)]
    return [
        [
            fox,
            *(pipe.vary(fox, eta=eta, **wide).images[0] for eta in (0.0, 0.4, 0.7, 1.0)),
            *pipe.vary(fox, 2, fresh_noise=True, **wide).images,
        ],
        pipe.interpolate([fox, panda], 7, **wide).images,
        [fox, *pipe.diff(fox, *diff, [i / 10 for i in range(6)], **wide).images],
        [pipe.mix(prompts, [1 - share, share], **wide).images[0] for share in shares],
        [hole, *pipe.edit(fox, "a fox wearing a blue top hat in the snow", mask, 4, **wide).images],
        [small, *halves(pipe.outpaint(small, "a fox in the snow", (128, 64), 2, seed=1).images)],
        [
            fox,
            *(
                pipe.edit(fox, "a watercolour of a fox in the snow", strength=s, **wide).images[0]
                for s in (0.2, 0.4, 0.6, 0.8)
            ),
        ],
    ]


def halves(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Split images twice as wide as high into squares."""
    return [i.crop((x, 0, x + i.height, i.height)) for i in images for x in (0, i.height)]


def decoded(pipe: Pipeline, z_i: Tensor, seed: int = 1, size: int = SIZE) -> list[Image.Image]:
    """Decode z_i without a caption, all from the same noise."""
    call = Call(pipe, [seed] * len(z_i), SamplingOptions(size=size))
    with torch.inference_mode():
        made = call.upsample(call.decode(z_i, *call.encode([""] * len(z_i))))
    return call.finish(made, z_i, [{}] * len(z_i)).images


def embedded(pipe: Pipeline, images: Sequence[Image.Image]) -> Tensor:
    with torch.inference_mode():
        return Call(pipe, [0]).encode_images(images)


def components(pipe: Pipeline, count: int) -> list[list[Image.Image]]:
    """Two images from more and more principal components of z_i (Ramesh et al. 2022, fig. 7)."""
    known = embedded(pipe, [draw(sample(SEED, i), 64) for i in range(count)])
    mean = known.mean(0)
    _, deviations, basis = torch.linalg.svd(known - mean, full_matrices=False)
    share = deviations.square().cumsum(0) / deviations.square().sum()
    print("| components | variance of z_i |\n| ---: | ---: |")
    print("\n".join(f"| {k} | {share[k - 1]:.1%} |" for k in COMPONENTS))
    rows = []
    for number in (3, 9):
        picture = draw(sample(SEED + 1, number), SIZE)
        z_i = embedded(pipe, [picture])[0]
        seen = torch.stack([mean + (z_i - mean) @ basis[:k].T @ basis[:k] for k in COMPONENTS[:-1]])
        seen = seen / seen.norm(dim=1, keepdim=True) * z_i.norm()
        rows.append([picture, *decoded(pipe, seen)])
    return rows


def typographic(pipe: Pipeline, count: int) -> list[Image.Image]:
    """Typographic attack (fig. 6): CLIP's zero-shot class of labelled images, and images decoded from z_i."""
    words = pipe.clip.encode_text([f"a {subject}" for subject in SUBJECTS]).embed.float()
    scenes = [sample(SEED + 2, i) for i in range(count)]
    others = [SUBJECTS[(SUBJECTS.index(scene.subject) + 7) % len(SUBJECTS)] for scene in scenes]
    plain = [draw(scene, SIZE) for scene in scenes]
    labelled = [label(image, word) for image, word in zip(plain, others, strict=True)]
    blank = [label(image, " " * 12) for image in plain]
    print("\n| picture | called what it is | called what is written on it |\n| --- | ---: | ---: |")
    for name, images in (
        ("as it is", plain),
        ("with an empty label", blank),
        ("with another's name on it", labelled),
    ):
        called = [SUBJECTS[i] for i in (embedded(pipe, images) @ words.T).argmax(1).tolist()]
        right = sum(c == scene.subject for c, scene in zip(called, scenes, strict=True))
        fooled = sum(c == other for c, other in zip(called, others, strict=True))
        print(f"| {name} | {right} of {count} | {fooled} of {count} |", flush=True)
    return [plain[0], labelled[0], *decoded(pipe, embedded(pipe, [plain[0], labelled[0]]))]


def label(image: Image.Image, word: str) -> Image.Image:
    """Paste a white label with a word onto the image."""
    labelled = image.copy()
    pen, side = ImageDraw.Draw(labelled), image.width
    box = (side // 8, int(side * 0.62), side - side // 8, int(side * 0.82))
    pen.rectangle(box, fill="white")
    pen.text(
        ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2), word, fill="black", anchor="mm", font_size=side // 8
    )
    return labelled


def binding(pipe: Pipeline, count: int) -> list[Image.Image]:
    """Test whether z_i binds two colours to their places (the paper's fig. 14 and 15)."""
    judge = load_judge()
    scenes = [coloured(i) for i in range(count)]
    plain = [draw(scene, SIZE) for scene in scenes]
    z_i = embedded(pipe, plain)
    made = [image for i in range(count) for image in decoded(pipe, z_i[i : i + 1], seed=i)]
    print("\n| picture | both colours in place | exchanged |\n| --- | ---: | ---: |")
    for name, images in (("the rendering", plain), ("decoded from its z_i", made)):
        seen = [(one["headwear_colour"], one["setting_colour"]) for one in judge.read(images)]
        truth = [(scene.headwear_colour, scene.setting_colour) for scene in scenes]
        right = sum(a == b for a, b in zip(seen, truth, strict=True))
        exchanged = sum(a == b[::-1] for a, b in zip(seen, truth, strict=True))
        print(f"| {name} | {right} of {count} | {exchanged} of {count} |", flush=True)
    return [image for pair in zip(plain[:3], made[:3], strict=True) for image in pair]


def coloured(i: int) -> Scene:
    """A scene with headwear of one colour on a plain background of another."""
    scene = sample(SEED + 3, i, held_out=True)
    hat, ground = COLOURS[i % 4], COLOURS[(i + 1 + i // 4 % 3) % 4]
    return replace(scene, headwear_colour=hat, setting="plain", setting_colour=ground)


if __name__ == "__main__":
    main()

"""Edits: paint a part of a picture anew, or all of it a little (RePaint; SDEdit)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.noise import Noise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.edits.masks import known_at, read_mask, resized_mask
from unclip.errors import RequestError
from unclip.generation import (
    Call,
    Generation,
    Model,
    OnStep,
    Options,
    Seed,
    check_negative,
    check_prompt,
    choose_seeds,
)
from unclip.images import plain, resize, to_tensor
from unclip.stages.base import DiffusionStage

# Each step is taken by itself and partly undone, so a solver that looks back has nothing to look at.
SINGLE_STEPS: Final[Mapping[str, Mapping[str, Any]]] = {"decoder": {"sampler": "ddpm"}}


def edit(
    model: Model, image: Image.Image, prompt: str, mask: Image.Image | None = None, num_images: int = 1, *,
    strength: float | None = None, repeats: int | None = None, negative: str = "", seed: Seed = None, size: int | None = None,
    options: Options | None = None, on_step: OnStep | None = None,
) -> Generation:  # fmt: skip
    """A picture with a part of it painted anew, so that the whole shows the prompt; what is kept stays bit for bit.

    Needs no special training: every stage samples with the kept part put in again and again (RePaint; Lugmayr et al.
    2022). A decoder whose config says `inpaint` sees that part besides, and needs no repeats. The paper's own model has
    no such thing; its product had.

    Args:
        image: square.
        prompt: of the whole picture, not of the part alone.
        mask: of the picture's size, painted where it is transparent or, if nothing of it is, where it is white. Without
            one, the picture's own transparent pixels are painted; if it has none, all of it is, by `strength`.
        strength: in (0, 1], how much noise what is painted starts from (SDEdit; Meng et al. 2022): 1, the default with
            a mask, forgets what was there; 0.5 keeps shapes.
        repeats: of each of the decoder's steps; more make the parts go better together, and take longer. If not given, 4,
            or 1 with an inpainting decoder.
        negative: what guidance leads away from.
        seed: of the first picture, the next ones count up; or one per picture.
        size: side in pixels of the result. If not given, the smallest the model makes that is not below the picture's; a
            picture of just that size keeps its pixels as they are, another is resized first.
        options: changes to the stages' sampling; the decoder's sampler is ddpm if not given.
        on_step: called after every step; may raise `Cancelled`.

    Raises:
        RequestError: a picture, mask, strength or size that cannot be used.
    """
    caption, negative = check_prompt(prompt), check_negative(negative)
    repeats = default_repeats(model) if repeats is None else repeats
    if repeats < 1:
        raise RequestError(f"{repeats} repeats: there must be at least 1")
    if strength is not None and not 0 < strength <= 1:
        raise RequestError(f"strength {strength}: must be above 0 and at most 1")
    image = plain(image)
    if image.width != image.height:
        raise RequestError(f"the picture has {image.width} × {image.height} pixels: crop it square, or use outpaint")
    paint = read_mask(image, mask)
    if paint is None:
        if strength is None:
            raise RequestError(
                "nothing says what to paint: give a mask, a picture with transparent parts, or a strength"
            )
        paint = torch.ones(image.height, image.width, dtype=torch.bool)
    drawn = choose_seeds(num_images, seed)
    if size is None:
        size = next((side for side in model.sizes if side >= image.width), model.sizes[-1])
    call = Call(model, drawn, size, options, on_step, defaults=SINGLE_STEPS)
    picture = resize(to_tensor(image)[None], size).to(model.device)
    with torch.inference_mode():
        text, null = call.encode([caption] * num_images, negative)
        z_i = call.imagine(text, null)
        paint = resized_mask(paint, size).to(model.device)
        known = known_at(model.decoder.size, picture, paint)
        denoise = model.decoder.denoiser(z_i, text, null, call.sampling["decoder"], known)
        made = paint_over(call, denoise, picture, paint, strength or 1.0, repeats)
    how = {"verb": "edit", "prompt": caption, "negative": negative, "strength": strength or 1.0, "repeats": repeats}
    return replace(call.finish(made, z_i, [how] * num_images), painted=paint)


def default_repeats(model: Model) -> int:
    """How often the decoder takes each step where nobody says: RePaint's way needs some, an inpainting decoder one."""
    return 1 if model.decoder.inpaints else 4


def paint_over(
    call: Call, denoise: Denoise, picture: Tensor, paint: Tensor, strength: float, repeats: int
) -> dict[int, Tensor]:
    """The decoder's pictures and those of every upsampler up to the call's size, by side, each with what is kept.

    Args:
        denoise: the decoder's, for as many pictures as the call has seeds.
        picture: [1, 3, S, S] with S the call's size. paint: True where to paint, [S, S].
        strength, repeats: of the decoder; the upsamplers follow what it made.
    """
    decoder, n = call.model.decoder, len(call.seeds)

    def walk(
        stage: DiffusionStage, side: int, role: str, denoise: Denoise, noise: Noise, first: bool
    ) -> Iterator[Step]:
        known = known_at(side, picture, paint)
        used, schedule = call.sampling[role], stage.diffusion.schedule
        times = schedule.grid(used.steps)
        x = noise(torch.empty(len(noise.seeds), *known.x0.shape[1:], device=picture.device))
        if first and strength < 1:
            times = [t for t in times if t <= strength * (schedule.times - 1)] or times[-1:]
            alpha, sigma = schedule.at(times[0])
            x = alpha * known.x0 + sigma * x
        sampler = find_sampler(used.sampler, used.eta)
        return inpaint(sampler, denoise, x, schedule, times, noise, known, repeats=repeats if first else 1)

    total = call.sampling["decoder"].steps * repeats
    x = call.run("decoder", walk(decoder, decoder.size, "decoder", denoise, call.noise("decoder"), True), total)
    made = {decoder.size: x}
    for upsampler in call.chain:
        role, parts = f"upsampler-{upsampler.size}", []
        for i in range(n):
            guided = upsampler.denoiser(x[i : i + 1].clamp(-1, 1), call.sampling[role])
            steps = walk(upsampler, upsampler.size, role, guided, Noise([call.seeds[i]], role), False)
            parts.append(call.run(role, steps))
        x = torch.cat(parts)
        made[upsampler.size] = x
    return made

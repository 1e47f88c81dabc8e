"""Text diffs: edit a picture along the difference of two captions (Ramesh et al. 2022, §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from PIL import Image

from unclip.errors import RequestError
from unclip.pipeline.call import Call
from unclip.pipeline.generation import Generation
from unclip.pipeline.invert import DDIM, STEPS, Inversion, latents, redraw
from unclip.pipeline.model import Model
from unclip.pipeline.options import (
    OptionKeywords,
    check_negative,
    check_prompt,
    check_thetas,
    choose_seeds,
    collect,
)
from unclip.pipeline.slerp import slerp


def diff(
    model: Model,
    image: Image.Image | Inversion,
    before: str,
    after: str,
    theta: float | Sequence[float] = (0.25, 0.5),
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Edit a picture by a text diff: rotate z_i towards z_t − z_t0 (Ramesh et al. 2022, §3.3).

    z_d = norm(z_t − z_t0); each image decodes slerp(z_i, z_d, theta) from the picture's own x_T.

    Args:
        image: of any size, or its inversion. CLIP crops it by its own rule; x_T is inverted from its middle
            part of the images' shape.
        before: caption of the picture, or a neutral "a photo", or "".
        after: caption of the wanted picture.
        theta: strength of the edit in [0, 1], one image per value; 0 reconstructs the picture. The paper
            uses 0.25 to 0.5.
        options: see `SamplingOptions`. All images share one seed. Default of the decoder: 50 steps of DDIM
            without guidance.

    Raises:
        RequestError: a theta outside [0, 1], captions that mean the same, a picture that cannot be used, a
            model without an image encoder.
    """
    thetas = check_thetas(theta)
    target, base, chosen = check_prompt(after), check_negative(before), collect(options)
    call = Call(model, choose_seeds(1, chosen.seed) * len(thetas), chosen, defaults=STEPS, forced=DDIM)
    with torch.inference_mode():
        text, _ = call.encode([target, base], embeds=True)
        towards = text.embed[0] - text.embed[1]
        if towards.norm() <= 1e-6 * text.embed[0].norm():
            raise RequestError("both captions mean the same to this model: there is no difference to follow")
        found = image if isinstance(image, Inversion) else latents(call, [image])
        z_i = found.image_embeds
        # Scaled to the length of z_i: the decoder was trained on embeddings of that length.
        z_d = F.normalize(towards.float(), dim=0)[None] * z_i.norm(dim=1, keepdim=True)
        z = torch.cat([slerp(z_i, z_d, one) for one in thetas])
        made = call.upsample(redraw(call, z, found.noise.repeat_interleave(len(thetas), dim=0)))
    arguments = [{"verb": "diff", "before": base, "after": target, "theta": one} for one in thetas]
    return call.finish(made, z, arguments)

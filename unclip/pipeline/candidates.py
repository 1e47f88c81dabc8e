"""The choice among candidates of a picture by CLIP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.clip import Clip, Text


def nearest(clip: Clip, pictures: Tensor, z_i: Tensor, text: Text) -> list[int]:
    """The number of the candidate of each row that CLIP reads as nearest to the caption's z_t.

    DALL·E (Ramesh et al. 2021, §2.6) chose its pictures so, and DALL·E 2's prior chooses its z_i so. Without a
    caption, or where CLIP does not encode it, the candidate nearest to z_i is chosen.

    Args:
        pictures: the candidates in consecutive rows, [B · n, 3, H, W].
        z_i: [B, D]. text: captions, B rows.
    """
    target = z_i.float()
    if text.embed.shape == z_i.shape:
        named = torch.tensor([bool(caption) for caption in text.captions], device=z_i.device)
        target = torch.where(named[:, None], text.embed.float(), target)
    seen = clip.encode_image(pictures).float().view(len(z_i), -1, z_i.shape[1])
    best: list[int] = F.cosine_similarity(seen, target[:, None], dim=2).argmax(dim=1).tolist()
    return best

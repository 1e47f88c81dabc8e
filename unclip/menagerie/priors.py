"""Comparison of priors with each other and with the two baselines without a prior (paper, §5.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unclip.clip import Text, encode_pictures, same_clip
from unclip.errors import RequestError
from unclip.evaluate.report import Score
from unclip.images import to_pil
from unclip.menagerie.compose import HeldOutCaption, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import SIZE, load_judge
from unclip.pipeline import Pipeline, SamplingOptions
from unclip.pipeline.call import Call
from unclip.stages.prior_base import BasePrior

SamplePrior = Callable[[Call, Text, Text], Tensor]


@dataclass(frozen=True)
class PriorReport:
    """Results of one source of z_i.

    Attributes:
        cosine: mean of cos(z_i, CLIP's embedding of the rendered scene); None without a z_i.
        named: share of named attributes that the decoded pictures show.
        seconds: time of the prior per caption.
    """

    name: str
    cosine: float | None
    named: Score
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "cosine": self.cosine,
            "named": self.named.to_dict(),
            "seconds": self.seconds,
        }


def compare_priors(
    pipeline: Pipeline, others: Mapping[str, BasePrior], *, count: int = 256, seed: int = 0, batch: int = 32
) -> list[PriorReport]:
    """Compare the model's prior, other priors of the same CLIP, z_t in place of z_i, and the caption alone.

    Args:
        others: priors by the names to report.
        count: number of held-out captions, one picture each. seed: seed of captions and pictures.

    Raises:
        RequestError: a prior of another CLIP, no prior in the model, or no captions.
    """
    if count < 1 or batch < 1:
        raise RequestError(f"{count} captions in batches of {batch}: there must be at least 1")
    for name, prior in others.items():
        if not same_clip(prior.config.clip, pipeline.clip):
            raise RequestError(
                f"{name}: was trained for CLIP {prior.config.clip}, not {pipeline.clip.identity}"
            )
    if pipeline.prior is None:
        raise RequestError(f"{pipeline.name}: has no prior to compare")
    sources: dict[str, SamplePrior] = {pipeline.prior.config.kind: _sampling(pipeline.prior)}
    sources |= {name: _sampling(prior.to(pipeline.device)) for name, prior in others.items()}
    sources["no prior: z_t"] = lambda call, text, null: text.embed.float()
    asked = held_out_captions(count, seed)
    reports = [_report(pipeline, name, sample, asked, batch) for name, sample in sources.items()]
    return [*reports, _report(pipeline, "no z_i: caption only", None, asked, batch)]


def _sampling(prior: BasePrior) -> SamplePrior:
    def sample(call: Call, text: Text, null: Text) -> Tensor:
        used = prior.config.sampling
        return call.run("prior", prior.sample(text, null, used, call.noise("prior")), prior.length(used))

    return sample


@torch.inference_mode()
def _report(
    pipeline: Pipeline, name: str, sample: SamplePrior | None, asked: Sequence[HeldOutCaption], batch: int
) -> PriorReport:
    judge, decoder = load_judge(), pipeline.decoder
    cosines: list[Tensor] = []
    right = total = 0
    seconds = 0.0
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        call = Call(pipeline, [one.seed for one in part], SamplingOptions(size=pipeline.sizes[0]))
        text, null = call.encode([one.text for one in part])
        if sample is None:
            z_i = decoder.null_embed.expand(len(part), -1).float()
        else:
            z_i = sample(call, text, null)
            side = max(SIZE, pipeline.clip.preprocess.size)
            true = encode_pictures(pipeline.clip, [draw(one.scene, side) for one in part])
            cosines.append(torch.cosine_similarity(z_i, true.float()))
        seconds += call.seconds.get("prior", 0.0)
        readings = judge.read([to_pil(x) for x in call.decode(z_i, text, null)])
        for one, reading in zip(part, readings, strict=True):
            truth = one.scene.attributes()
            right += sum(reading[key] == truth[key] for key in one.named)
            total += len(one.named)
    cosine = torch.cat(cosines).mean().item() if cosines else None
    return PriorReport(name, cosine, Score(right, total), seconds / len(asked))


def table(reports: Sequence[PriorReport]) -> str:
    """Format reports as a Markdown table."""
    lines = [
        "| prior | cosine to z_i | named attributes right [95 %] | s per caption |",
        "| --- | ---: | ---: | ---: |",
    ]
    for one in reports:
        cosine = "–" if one.cosine is None else f"{one.cosine:.3f}"
        lines.append(f"| {one.name} | {cosine} | {one.named} | {one.seconds:.3f} |")
    return "\n".join(lines)

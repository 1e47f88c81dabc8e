"""Comparison of priors with each other and with the two baselines without a prior (paper, §5.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.clip import Text, encode_pictures, same_clip
from unclip.errors import RequestError
from unclip.evaluate.report import Score
from unclip.images import to_pil
from unclip.menagerie.compose import HeldOutCaption, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import SIZE, load_judge
from unclip.menagerie.scene import VECTOR_WIDTH
from unclip.pipeline import Pipeline, SamplingOptions
from unclip.pipeline.call import Call
from unclip.stages.decoder import Decoder
from unclip.stages.prior_base import BasePrior
from unclip.stages.prior_vectors import VectorPrior

# The call, the scenes with their captions, the encoded captions and the null text → z_i.
SamplePrior = Callable[[Call, Sequence[HeldOutCaption], Text, Text], Tensor]


class Source(NamedTuple):
    """A source of z_i.

    Attributes:
        sample: draws z_i; None without one.
        captioned: whether the decoder also reads the caption.
    """

    sample: SamplePrior | None
    captioned: bool = True


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
    pipeline: Pipeline,
    others: Mapping[str, BasePrior | VectorPrior],
    *,
    count: int = 256,
    seed: int = 0,
    batch: int = 32,
) -> list[PriorReport]:
    """Compare the model's prior, other priors of the same CLIP, z_t in place of z_i, and the caption alone.

    Args:
        others: priors by the names to report. One that reads vectors gets all attributes of the scene
            (`Scene.vector`), and the decoder then no caption; the model's prior is also reported like that.
        count: number of held-out captions, one picture each. seed: seed of captions and pictures.

    Raises:
        RequestError: a prior of another CLIP or of other vectors, a model without a prior that reads
            captions, or no captions.
    """
    if count < 1 or batch < 1:
        raise RequestError(f"{count} captions in batches of {batch}: there must be at least 1")
    for name, prior in others.items():
        if not same_clip(prior.config.clip, pipeline.clip):
            raise RequestError(
                f"{name}: was trained for CLIP {prior.config.clip}, not {pipeline.clip.identity}"
            )
        if isinstance(prior, VectorPrior) and prior.vector_shape != (1, VECTOR_WIDTH):
            raise RequestError(
                f"{name}: reads vectors of shape {list(prior.vector_shape or ())}, not the {VECTOR_WIDTH} "
                "attributes of `unclip data menagerie` --vectors"
            )
    own = pipeline.prior
    if not isinstance(own, BasePrior):
        raise RequestError(f"{pipeline.name}: has no prior that reads captions, to compare with")
    sources = {own.config.kind: Source(_from_text(own))}
    for name, prior in others.items():
        prior.to(pipeline.device)
        if isinstance(prior, VectorPrior):
            sources[f"{own.config.kind}, no caption"] = Source(_from_text(own), captioned=False)
            sources[f"{name}, no caption"] = Source(_from_vectors(prior), captioned=False)
        else:
            sources[name] = Source(_from_text(prior))
    sources["no prior: z_t"] = Source(lambda call, part, text, null: text.embed.float())
    sources["no z_i: caption only"] = Source(None)
    asked = held_out_captions(count, seed)
    return [_report(pipeline, name, source, asked, batch) for name, source in sources.items()]


def _from_text(prior: BasePrior) -> SamplePrior:
    def sample(call: Call, part: Sequence[HeldOutCaption], text: Text, null: Text) -> Tensor:
        used = prior.config.sampling
        return call.run("prior", prior.sample(text, null, used, call.noise("prior")), prior.length(used))

    return sample


def _from_vectors(prior: VectorPrior) -> SamplePrior:
    def sample(call: Call, part: Sequence[HeldOutCaption], text: Text, null: Text) -> Tensor:
        used = prior.config.sampling
        vectors = torch.tensor([[one.scene.vector()] for one in part], device=prior.device)
        return call.run("prior", prior.sample(vectors, used, call.noise("prior")), prior.length(used))

    return sample


@torch.inference_mode()
def _report(
    pipeline: Pipeline, name: str, source: Source, asked: Sequence[HeldOutCaption], batch: int
) -> PriorReport:
    judge, decoder = load_judge(), pipeline.decoder
    assert isinstance(decoder, Decoder)
    cosines: list[Tensor] = []
    right = total = 0
    seconds = 0.0
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        call = Call(pipeline, [one.seed for one in part], SamplingOptions(size=pipeline.sizes[0]))
        text, null = call.encode([one.text for one in part])
        if source.sample is None:
            z_i = decoder.null_embed.expand(len(part), -1).float()
        else:
            z_i = source.sample(call, part, text, null)
            side = max(SIZE, pipeline.clip.preprocess.size)
            true = encode_pictures(pipeline.clip, [draw(one.scene, side) for one in part])
            cosines.append(torch.cosine_similarity(z_i, true.float()))
        seconds += call.seconds.get("prior", 0.0)
        said = (text, null) if source.captioned else call.encode([""] * len(part))
        readings = judge.read([to_pil(x) for x in call.decode(z_i, *said)])
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

"""The judge: a small convolutional network that reads a scene's attributes from a 64 px picture.

It is trained on renderings only (`train`), so it learns nothing from generated pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from unclip.config import Config, parse
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import BUNDLED, load_weights, new_folder, read_json, save_weights, write_json
from unclip.images import resize, to_tensor
from unclip.menagerie.scene import VALUES, Scene

SIZE = 64  # pixels per side
NONE = "none"  # name on disk of the class "absent"
_ALWAYS_THERE = frozenset({"subject", "setting", "style"})

Attributes = dict[str, str | None]

CLASSES: dict[str, tuple[str | None, ...]] = {
    key: values if key in _ALWAYS_THERE else (*values, None) for key, values in VALUES.items()
}


class JudgeConfig(Config):
    """The shape of a judge.

    Attributes:
        channels: channels of each level. Each level halves the resolution.
        depth: residual blocks per level.
        classes: the classes of each head, in order.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    depth: tuple[int, ...] = (1, 1, 2)
    classes: dict[str, tuple[str, ...]] = Field(
        default_factory=lambda: {
            key: tuple(value or NONE for value in values) for key, values in CLASSES.items()
        }
    )


class Residual(nn.Module):
    """A residual block of two 3 × 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(x + self.norm_2(self.conv_2(h)))


class Head(nn.Module):
    """The classifier of one attribute, with attention pooling."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.where = nn.Conv2d(channels, 1, 1)
        self.what = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] → logits [B, classes]."""
        weight = rearrange(self.where(features), "b 1 h w -> b (h w)").softmax(dim=1)
        pooled = einsum(rearrange(features, "b c h w -> b (h w) c"), weight, "b n c, b n -> b c")
        logits: Tensor = self.what(pooled)
        return logits


class Judge(nn.Module):
    """A shared residual trunk and a head per attribute."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, depth in zip(config.channels, config.depth, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            layers += [Residual(outputs) for _ in range(depth)]
            inputs = outputs
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({key: Head(inputs, len(values)) for key, values in config.classes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, 64, 64] in [−1, 1] → each attribute's logits [B, classes]."""
        features = self.trunk(images)
        return {key: head(features) for key, head in self.heads.items()}

    @torch.inference_mode()
    def read(self, pictures: Sequence[Image.Image], batch: int = 64) -> list[Attributes]:
        """Read the attributes of each picture. Larger pictures are resized to 64 px."""
        readings: list[Attributes] = []
        for start in range(0, len(pictures), batch):
            images = torch.stack([_seen(picture) for picture in pictures[start : start + batch]])
            best = {key: logits.argmax(dim=1).tolist() for key, logits in self(images).items()}
            readings += [{key: CLASSES[key][best[key][i]] for key in CLASSES} for i in range(len(images))]
        return readings

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (float16) atomically."""
        with new_folder(folder) as temporary:
            write_json(temporary / "config.json", self.config.model_dump(mode="json"))
            save_weights(self, temporary / "model.safetensors", torch.float16)


def load_judge(folder: Path = BUNDLED / "judge") -> Judge:
    """Load the judge that ships with the package, or one that `Judge.save` wrote."""
    try:
        config = parse(JudgeConfig, read_json(folder / "config.json"), f"{folder}/config.json")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if config.classes != JudgeConfig().classes:
        raise CheckpointError(
            f"{folder}: this judge was trained on another menagerie; `train_judge` makes a new one"
        )
    with torch.device("meta"):
        judge = Judge(config)
    load_weights(judge, folder / "model.safetensors")
    return judge.eval()


def labels(scene: Scene | Attributes) -> list[int]:
    """The class index of each attribute, in the order of CLASSES."""
    attributes = scene.attributes() if isinstance(scene, Scene) else scene
    return [values.index(attributes[key]) for key, values in CLASSES.items()]


def _seen(picture: Image.Image) -> Tensor:
    if min(picture.size) < SIZE or picture.width != picture.height:
        raise RequestError(
            f"the judge reads squares of {SIZE} pixels or more, not {picture.width} × {picture.height}"
        )
    return resize(to_tensor(picture)[None], SIZE)[0]

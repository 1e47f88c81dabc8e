"""The index of a model folder, `model_index.json`: its format, reader and writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from unclip.config import Config, parse
from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json, write_json
from unclip.version import __version__

FILE = "model_index.json"
FORMAT: Literal[1] = 1
UNDISTILLED = "decoder-slow"  # role of the decoder from which the model's decoder was distilled


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"{name!r} points outside the folder")
    return name


Part = Annotated[str, AfterValidator(_inside)]
Precision = Annotated[
    Literal["bfloat16"], BeforeValidator(lambda word: "bfloat16" if word == "quick" else word)
]


class ModelIndex(Config):
    """The parts of a model. Paths are relative to the model's folder and stay inside it.

    Unknown keys are kept, so that loading and saving a model loses nothing.

    Attributes:
        format: version of this file's layout.
        name: name of the model, for messages.
        unclip: version of the program that wrote the folder. None if not recorded.
        clip: folder of the CLIP, or the reference of a public one (`openclip:…`, `hf:…`). None without one.
        prior, decoder: folders of these stages. None if the model lacks the stage.
        upsamplers: folders of the upsamplers, in ascending order of size.
        undistilled: folder of the decoder from which `decoder` was distilled, for what a distilled one cannot
            do. None if the model does not hold it.
        vocabulary: words that the model was trained on. None for an open vocabulary.
        precision: dtype of the networks on devices where it is fast; "quick" is the older name of "bfloat16".
            None for float32.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    format: Literal[1] = FORMAT
    name: str
    unclip: str | None = None
    clip: Part | None = Field(...)
    prior: Part | None = Field(...)
    decoder: Part | None = Field(...)
    upsamplers: tuple[Part, ...]
    undistilled: Part | None = None
    vocabulary: tuple[str, ...] | None = None
    precision: Precision | None = None

    @classmethod
    def of(
        cls,
        name: str,
        stages: Mapping[str, str],
        *,
        clip: str | None,
        vocabulary: Sequence[str] | None = None,
        precision: Literal["bfloat16"] | None = None,
    ) -> Self:
        """Build the index of a new model.

        Args:
            stages: folder of each stage by its role: "prior", "decoder", "upsampler-SIZE", "decoder-slow" (the
                undistilled one).
            clip: folder or reference of the CLIP.
        """
        upsamplers = sorted(
            (r for r in stages if r.startswith("upsampler-")), key=lambda r: int(r.split("-")[1])
        )
        return cls(
            name=name,
            unclip=__version__,
            clip=clip,
            prior=stages.get("prior"),
            decoder=stages.get("decoder"),
            upsamplers=tuple(stages[role] for role in upsamplers),
            undistilled=stages.get(UNDISTILLED),
            precision=precision,
            vocabulary=None if vocabulary is None else tuple(sorted(vocabulary)),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the index of a model folder.

        Raises:
            CheckpointError: missing or damaged, another format, or a path that leads out of the folder.
        """
        tree = read_json(folder / FILE)
        if tree.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder / FILE}: format {tree.get('format')!r}, this version reads {FORMAT}"
            )
        try:
            return parse(cls, {"name": folder.resolve().name, **tree}, str(folder / FILE))
        except ConfigError as error:
            raise CheckpointError(str(error)) from None

    def write(self, folder: Path) -> None:
        """Write `model_index.json` into the folder."""
        keys = ("unclip", "vocabulary", "precision", "undistilled")
        optional = {key for key in keys if getattr(self, key) is None}
        write_json(folder / FILE, self.model_dump(mode="json", exclude=optional))

    @property
    def stages(self) -> list[str]:
        """Folders of the stages in the order of sampling."""
        return [name for name in (self.prior, self.decoder, *self.upsamplers) if name is not None]

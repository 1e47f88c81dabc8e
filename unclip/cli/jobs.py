"""Jobs of many images, of prompts or embeddings: split among processes and resumed after a stop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli.options import ImageOptions
from unclip.cli.outputs import BATCH, MOST, batch_label, check_sheet, progress, warn, write, write_sheet
from unclip.cli.paths import check_outputs, check_stage_outputs, image_paths, path_pattern
from unclip.errors import RequestError
from unclip.pipeline.options import check_prompt
from unclip.pipeline.sizes import parse_size
from unclip.text import lines, read_text

if TYPE_CHECKING:
    from PIL import Image

    from unclip.pipeline import Generation, Pipeline, SamplingOptions

NAME = "{prompt}-{seed}.png"
RECORD = "unclip-generate.json"  # file beside a job's images with the request


@dataclass(frozen=True)
class Job:
    """What to draw, with one entry per image.

    Attributes:
        labels: {prompt} of each image's file name.
        offsets: the seed of each image minus that of the first.
        captions: of each image, for warnings.
        draw: draws the images of some numbers; its options hold their seeds.
        request: what determines the images besides the options, for the job's record.
        record: name of the record's file; None if the job cannot be resumed.
        numbered: whether default file names begin with the image's number.
        check: checks the loaded model; raises RequestError.
    """

    labels: Sequence[str]
    offsets: Sequence[int]
    captions: Sequence[str]
    draw: Callable[[Pipeline, SamplingOptions, Sequence[int]], Generation]
    request: dict[str, Any]
    record: str | None
    numbered: bool
    check: Callable[[Pipeline], None] = field(default=lambda pipe: None)


class Share:
    """This process's share of the work among the processes of `accelerate-launch`."""

    def __init__(self) -> None:
        self.rank, self.processes, self.device = 0, 1, None
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from unclip.device import join_processes  # torch is slow to import

            self._state = join_processes()
            self.rank, self.processes = self._state.process_index, self._state.num_processes
            self.device = str(self._state.device)

    def batches(self, count: int, size: int) -> list[Sequence[int]]:
        """The indices of this process's images, out of `count`, in batches of `size`.

        Batches do not depend on the number of processes, because an image's last bits depend on its batch.
        """
        every: list[Sequence[int]] = [
            range(start, min(start + size, count)) for start in range(0, count, size)
        ]
        return every[self.rank :: self.processes]

    def broadcast(self, seed: int, resumed: bool) -> tuple[int, bool]:
        """The first process's values, on every process."""
        if self.processes == 1:
            return seed, resumed
        from accelerate.utils import broadcast_object_list

        values: list[Any] = broadcast_object_list([seed, resumed])
        return values[0], values[1]

    @contextmanager
    def first_process_first(self) -> Iterator[None]:
        """Run the body on each machine's first process before the others, which then find its downloads."""
        if self.processes == 1:
            yield
            return
        with self._state.local_main_process_first():
            yield


class JobRecord:
    """The file beside a job's images that records the request.

    Args:
        path: path of the file, which need not exist.
        request: everything but the seed that determines the images, as JSON.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path, self.request = path, request

    def earlier_seed(self, seed: int | None) -> int | None:
        """The first seed of an earlier run of this request, to be resumed; None without an earlier run.

        Raises:
            RequestError: the images there belong to another request.
        """
        if not self.path.is_file():
            return None
        from unclip.files import read_json

        kept = {"preset": "balanced", "lora": [], **read_json(self.path)}  # older records have neither
        wanted = {**self.request, "seed": kept.get("seed") if seed is None else seed}
        for key, value in wanted.items():
            if kept.get(key) != value:
                raise RequestError(
                    f"{self.path}: the pictures there were asked for with {key} {kept.get(key)!r}, now it "
                    f"is {value!r}; "
                    "give another folder, or --overwrite"
                )
        return int(kept["seed"])

    def begin(self, seed: int) -> None:
        """Write the record; from now on, existing images count as this job's."""
        from unclip.files import write_json

        write_json(self.path, {**self.request, "seed": seed})


def fingerprint(captions: Sequence[str]) -> str:
    """Number and digest of a list of prompts, for a record."""
    text = "\n".join(captions).encode(errors="surrogatepass")
    return f"{len(captions)}: {hashlib.sha256(text).hexdigest()[:16]}"


def read_captions(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The prompts of the command line and of a file with one per line.

    Raises:
        RequestError: no prompt, an empty one, or an unreadable file.
    """
    captions = list(prompts)
    if file is not None:
        captions += [line for line in lines(read_text(file)) if line.strip()]
    if not captions:
        raise RequestError(
            'no prompt: say what the picture should show, as in unclip generate "a corgi in space"'
        )
    if any(not caption.strip() for caption in captions):
        raise RequestError("the prompt is empty; say what the picture should show")
    return captions


def generate_all(
    common: ImageOptions, captions: Sequence[str], num_images: int, *, grid: bool, from_file: bool
) -> None:
    """Generate, write and print `num_images` images of each caption, batch by batch.

    Args:
        grid: write one contact sheet instead.
        from_file: whether the captions came from a file; into a folder, the job can then be resumed.
    """
    total = len(captions) * num_images
    check_count(total, num_images if from_file else total, num_images)
    labels = [caption for caption in captions for _ in range(num_images)]
    for caption in captions:
        check_prompt(caption)

    def draw(pipe: Pipeline, options: SamplingOptions, numbers: Sequence[int]) -> Generation:
        return pipe.generate([labels[i] for i in numbers], options=options)

    job = Job(
        labels=labels,
        offsets=[i for _ in captions for i in range(num_images)],
        captions=labels,
        draw=draw,
        request={"prompts": fingerprint(captions), "num_images": num_images},
        record=RECORD if from_file else None,
        numbered=from_file,
    )
    draw_job(common, job, grid=grid)


def check_count(total: int, counted: int, num_images: int) -> None:
    """RequestError if a command makes no images, or if those that are counted are too many."""
    if num_images < 1 or counted > MOST:
        raise RequestError(
            f"{total} pictures: one command makes 1 to {MOST}; go on with another --seed for more"
        )


def draw_job(common: ImageOptions, job: Job, *, grid: bool) -> None:
    """Draw, write and print the images of a job, batch by batch.

    Args:
        grid: write one contact sheet instead.
    """
    total = len(job.labels)
    share, pattern = Share(), _pattern(common, total, grid=grid, numbered=job.numbered)
    if grid and share.processes > 1:
        raise RequestError("--grid: one process makes the sheet; leave out accelerate-launch")
    record = None
    if job.record and common.output is not None and not grid and "{" in pattern:
        record = _record(common, job.record, job.request, pattern)
    earlier = None if record is None or common.overwrite else record.earlier_seed(common.seed)
    first, resumed = share.broadcast(common.first_seed() if earlier is None else earlier, earlier is not None)
    pairs = [(label, first + offset) for label, offset in zip(job.labels, job.offsets, strict=True)]
    paths = image_paths(pattern, pairs[:1] if grid else pairs)
    batches = share.batches(total, BATCH)
    if resumed:
        batches = [left for batch in batches if (left := [i for i in batch if not paths[i].exists()])]
    mine = [i for batch in batches for i in batch]
    check_outputs(paths if grid else [paths[i] for i in mine], common.overwrite)
    with share.first_process_first():
        pipe = common.load(share.device)
        job.check(pipe)
        if grid:
            check_sheet(paths[0], total, common.size or parse_size(pipe.sizes[-1]))
        else:
            check_stage_outputs(common, pipe, [paths[i] for i in mine], overwrite=resumed)
        if record is not None and share.rank == 0 and not resumed:
            record.begin(first)
    if not common.quiet:
        warn(pipe, [job.captions[i] for i in mine])
    sheet: list[Image.Image] = []
    settings: list[dict[str, Any]] = []
    for batch in batches:
        with progress(common.quiet, batch_label(batch, total)) as on_step:
            options = common.sampling([pairs[i][1] for i in batch], on_step)
            # A sheet gets one watermark as a whole, not one per image.
            options = replace(options, watermark=options.watermark and not grid)
            made = job.draw(pipe, options, batch)
        if grid:
            sheet += made.images
            settings += made.settings
            continue
        for number, i in enumerate(batch):
            write(common, made, number, paths[i])
    if grid:
        write_sheet(common, sheet, paths[0], {"grid": settings}, seed=first)


def _pattern(common: ImageOptions, total: int, *, grid: bool, numbered: bool) -> str:
    """The pattern of the file names."""
    if grid:
        return path_pattern(common.output, NAME if common.output else NAME.replace(".", "-grid."), 1)
    # An index in the name, because captions of a file may share a beginning or be equal.
    name = f"{{index:0{len(str(total - 1))}}}-{NAME}" if numbered and common.output else NAME
    return path_pattern(common.output, name, total)


def _record(common: ImageOptions, name: str, request: dict[str, Any], pattern: str) -> JobRecord:
    path = Path(pattern.partition("{")[0] + name).with_name(name)
    return JobRecord(
        path,
        {
            **request,
            "files": Path(pattern).name,
            "model": common.model,
            "lora": list(common.lora),
            "size": common.size and common.size.plain,
            "negative": common.negative,
            "dtype": common.dtype or "default",
            "preset": common.chosen_preset,
            "options": common.stages,
            "watermark": not common.no_watermark,
        },
    )

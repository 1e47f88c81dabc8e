"""Many prompts as one job: which process draws what, and what an earlier run of the same command has drawn already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unclip.errors import RequestError

RECORD = "unclip-generate.json"  # lies beside a job's pictures and says what was asked for


class Share:
    """This process's share of the work; under `accelerate launch` there are others, here or on other machines."""

    def __init__(self) -> None:
        self.rank, self.processes, self.device = 0, 1, None
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from unclip.device import join_processes  # torch is slow to import

            self._state = join_processes()
            self.rank, self.processes = self._state.process_index, self._state.num_processes
            self.device = str(self._state.device)

    def batches(self, count: int, size: int) -> list[Sequence[int]]:
        """Which of `count` pictures are this process's to draw, batch by batch.

        Whole batches are dealt out, so that a picture has the same company however many processes there are: beside
        others, its last bits are others.
        """
        every: list[Sequence[int]] = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return every[self.rank :: self.processes]

    def agree(self, seed: int, going_on: bool) -> tuple[int, bool]:
        """What the first process says."""
        if self.processes == 1:
            return seed, going_on
        from accelerate.utils import broadcast_object_list

        said: list[Any] = broadcast_object_list([seed, going_on])
        return said[0], said[1]

    @contextmanager
    def first_process_first(self) -> Iterator[None]:
        """The first process of each machine passes through before the others: what it fetches or converts, they find."""
        if self.processes == 1:
            yield
            return
        with self._state.local_main_process_first():
            yield


class Job:
    """A command's request, as its record keeps it.

    Args:
        record: where that is, or will be.
        request: what decides the pictures, without the seed, as JSON knows it.
    """

    def __init__(self, record: Path, request: dict[str, Any]) -> None:
        self.record, self.request = record, request

    def begun(self, seed: int | None) -> int | None:
        """The first seed of an earlier run of the same request, which is to be gone on with; None if there was none.

        Raises:
            RequestError: the pictures there are another request's.
        """
        if not self.record.is_file():
            return None
        from unclip.files import read_json

        kept = read_json(self.record)
        asked = {**self.request, "seed": kept.get("seed") if seed is None else seed}
        for key, value in asked.items():
            if kept.get(key) != value:
                raise RequestError(
                    f"{self.record}: the pictures there were asked for with {key} {kept.get(key)!r}, now it is {value!r}; "
                    "give another folder, or --overwrite"
                )
        return int(kept["seed"])

    def begin(self, seed: int) -> None:
        """Writes the record: from now on, pictures that are there are this job's."""
        from unclip.files import write_json

        self.record.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.record.with_name(f".{self.record.name}.tmp")
        write_json(temporary, {**self.request, "seed": seed})
        temporary.replace(self.record)


def fingerprint(captions: Sequence[str]) -> str:
    """A list of prompts, for a record: how many, and a digest."""
    return f"{len(captions)}: {hashlib.sha256(chr(10).join(captions).encode(errors='surrogatepass')).hexdigest()[:16]}"

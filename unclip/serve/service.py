"""From a checked request to the answer: one JSON object, or server-sent events while the image forms."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from unclip.serve.embeddings import encode_embedding
from unclip.serve.envelope import GONE, ApiError, refusal
from unclip.serve.limits import check_cost
from unclip.serve.pictures import Decoders, Marks, composite_kept, encode
from unclip.serve.progress import Progress
from unclip.serve.queueing import DrawnImages, QueuedRequest
from unclip.serve.requests import EditRequest, EmbeddingRequest, GenerationRequest, OutpaintRequest
from unclip.serve.schema import is_gpt_image
from unclip.serve.store import Store
from unclip.serve.worker import Worker

OFTEN = 0.25  # seconds between two reports of progress


@dataclass(frozen=True)
class Preview:
    """The images of a request as far as they are; `number` counts from 0."""

    number: int
    images: list[Image.Image]


@dataclass
class ImageService:
    """Draws requests, marks the images and answers with them.

    Attributes:
        max_cost: see `unclip.serve.limits`.
        draining: the server ends, and its images with it; they are sent as data, because URLs would be dead.
    """

    worker: Worker
    store: Store
    marks: Marks = field(default_factory=Marks)
    max_cost: float = float("inf")
    decoders: Decoders = field(default_factory=Decoders)
    draining: bool = False

    def drain(self) -> None:
        """Sends images as data from now on."""
        self.draining = True

    async def answer(self, request: Request, wanted: GenerationRequest, base: str, client: str) -> Response:
        """Draws and answers.

        Args:
            base: URL of this server, without a path.
            client: whose share of the queue it takes.

        Raises:
            ApiError: too large, no room in the queue or on the disk, or the client closed the connection.
        """
        if wanted.response_format == "url" and wanted.partial_images is None:
            await asyncio.to_thread(self.store.check_room)
        if wanted.partial_images is not None:
            return self._stream(wanted, client)
        drawn = await self.draw(request, wanted, client)
        data = await asyncio.to_thread(self._data, wanted, drawn, base)
        answer = {"created": int(time.time()), "data": data, "x_unclip": self.details(wanted, drawn)}
        return JSONResponse({**answer, **(look(wanted) if is_gpt_image(wanted.model) else {})})

    async def embed(self, request: Request, wanted: EmbeddingRequest, encoding: str, client: str) -> Response:
        """Answers with embeddings, see `EmbeddingsResponse`.

        Args:
            encoding: "float" or "base64".
        """
        drawn = await self.draw(request, wanted, client)
        model = self.worker.model(wanted.model)
        seeds: list[int | None] = [*drawn.seeds] if wanted.image is None else [None]
        data = [
            {"object": "embedding", "index": i, "embedding": encode_embedding(z_i, encoding), "seed": seed}
            for i, (z_i, seed) in enumerate(zip(drawn.embeds, seeds, strict=True))
        ]
        about = {"clip": model.facts.clip, "width": model.facts.width, **self.details(wanted, drawn)}
        return JSONResponse({"object": "list", "model": model.name, "data": data, "x_unclip": about})

    async def draw(self, request: Request, wanted: GenerationRequest, client: str) -> DrawnImages:
        """Draws, unless the client closes the connection before.

        Raises:
            ApiError: as `answer`.
        """
        check_cost(wanted, self.max_cost)
        return await self._result(request, self.worker.submit(wanted, client=client))

    def details(self, wanted: GenerationRequest, drawn: DrawnImages) -> dict[str, Any]:
        """Returns our own fields of an answer, see `Details`."""
        found = {"seconds": round(drawn.seconds, 3), "model": self.worker.model(wanted.model).name}
        return {**found, **({"ignored": wanted.ignored} if wanted.ignored else {})}

    async def _result(self, request: Request, queued: QueuedRequest) -> DrawnImages:
        """Waits for the images, or for the client to close the connection; then the work stops."""
        result: asyncio.Future[DrawnImages] = asyncio.wrap_future(queued.result)
        # The body has been read, so the next message is the end of the connection.
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ApiError("The client closed the request.", status=GONE)
            return result.result()
        finally:
            gone.cancel()
            self._release(queued, result)

    def _release(self, queued: QueuedRequest, result: asyncio.Future[DrawnImages]) -> None:
        """Stops the work of a request that nobody waits for any more."""
        if not queued.result.done():
            result.add_done_callback(
                lambda ended: ended.cancelled() or ended.exception()
            )  # marks it as retrieved
            self.worker.cancel(queued)

    def _data(self, wanted: GenerationRequest, drawn: DrawnImages, base: str) -> list[dict[str, Any]]:
        """Returns the images as URLs or base64, each with its seed."""
        data = []
        for image, seed in zip(drawn.images, drawn.seeds, strict=True):
            file = self.encode(wanted, image)
            if wanted.response_format == "url" and not self.draining:
                data.append({"url": base + self.store.add(file, wanted.format.lower()), "seed": seed})
            else:
                data.append({"b64_json": base64.b64encode(file).decode(), "seed": seed})
        return data

    def encode(self, wanted: GenerationRequest, image: Image.Image) -> bytes:
        """Encodes an image in the requested format and size, with its marks."""
        write = partial(
            encode,
            marks=self.marks,
            settings=self.marks.settings(image),
            format=wanted.format,
            quality=wanted.quality,
        )
        if image.size != wanted.pixels:
            image = image.resize(wanted.pixels, Image.Resampling.LANCZOS)
        if isinstance(wanted, EditRequest):
            image = composite_kept(image, wanted.image, wanted.mask)
        if isinstance(wanted, EditRequest | OutpaintRequest):
            return write(image, part=True, mask=wanted.mask)
        return write(image, part=False)

    def _stream(self, wanted: GenerationRequest, client: str) -> Response:
        """Returns the events of the newer Images API."""
        return event_stream(self._events(wanted, self.follow(wanted, client)))

    def follow(
        self, wanted: GenerationRequest, client: str, *, progress: bool = False
    ) -> AsyncGenerator[Progress | Preview | DrawnImages]:
        """Yields the previews that the request asks for, then the finished images.

        The work stops if the generator is closed early.

        Args:
            progress: also yield the progress, at most every `OFTEN` seconds.

        Raises:
            ApiError: too large, or no room in the queue.
        """
        check_cost(wanted, self.max_cost)
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Progress | Preview] = asyncio.Queue()
        told = 0.0

        def on_preview(number: int, images: list[Image.Image]) -> None:
            loop.call_soon_threadsafe(news.put_nowait, Preview(number, images))

        def on_progress(now: Progress) -> None:
            nonlocal told
            if time.monotonic() - told > OFTEN:
                told = time.monotonic()
                loop.call_soon_threadsafe(news.put_nowait, now)

        queued = self.worker.submit(wanted, on_preview, on_progress if progress else None, client=client)
        return self._follow(queued, news)

    async def _follow(
        self, queued: QueuedRequest, news: asyncio.Queue[Progress | Preview]
    ) -> AsyncGenerator[Progress | Preview | DrawnImages]:
        result: asyncio.Future[DrawnImages] = asyncio.wrap_future(queued.result)
        try:
            while not (result.done() and news.empty()):
                look: asyncio.Future[Any] = asyncio.ensure_future(news.get())
                await asyncio.wait([look, result], return_when=asyncio.FIRST_COMPLETED)
                if look.done():
                    yield look.result()
                else:
                    look.cancel()
            yield result.result()
        finally:
            self._release(queued, result)

    async def _events(
        self, wanted: GenerationRequest, course: AsyncGenerator[Progress | Preview | DrawnImages]
    ) -> AsyncIterator[str]:
        event = partial(self._event, wanted)
        try:
            async with aclosing(course):
                async for now in course:
                    more: dict[str, Any]
                    if isinstance(now, Progress):
                        continue
                    if isinstance(now, Preview):
                        name, more = "partial_image", {"partial_image_index": now.number}
                    else:
                        more = {"seed": now.seeds[0], "x_unclip": self.details(wanted, now)}
                        name = "completed"
                    yield await asyncio.to_thread(event, name, now.images[0], more)
        except Exception as error:  # the status has been sent, so only an event can say it
            yield sse({"type": "error", **refusal(error).body})

    def _event(self, wanted: GenerationRequest, name: str, image: Image.Image, more: dict[str, Any]) -> str:
        kind = "image_edit" if isinstance(wanted, EditRequest) else "image_generation"
        data = {
            "type": f"{kind}.{name}",
            "b64_json": base64.b64encode(self.encode(wanted, image)).decode(),
            "created_at": int(time.time()),
            **look(wanted),
            "quality": "auto",
            **more,
        }
        return sse(data)


def event_stream(events: AsyncIterator[str]) -> Response:
    """Returns server-sent events as an answer."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is for nginx
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def look(wanted: GenerationRequest) -> dict[str, str]:
    """Returns the fields by which later models say how an image looks."""
    width, height = wanted.pixels
    return {"size": f"{width}x{height}", "output_format": wanted.format.lower(), "background": "opaque"}


def sse(data: Mapping[str, Any]) -> str:
    """Words a server-sent event."""
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"

"""From a checked request to the answer: one JSON object, or server-sent events while the image forms."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from unclip.errors import UnclipError
from unclip.serve.envelope import GONE, ApiError, internal_error
from unclip.serve.limits import check_cost
from unclip.serve.pictures import Decoders, Marks, composite_kept, encode
from unclip.serve.progress import Progress
from unclip.serve.queueing import DrawnImages, QueuedRequest
from unclip.serve.requests import EditRequest, GenerationRequest, OutpaintRequest
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
        check_cost(wanted, self.max_cost)
        queued = self.worker.submit(wanted, client=client)
        drawn = await self._result(request, queued)
        data = await asyncio.to_thread(self._data, wanted, drawn, base)
        timing = {"seconds": round(drawn.seconds, 3)}
        return JSONResponse({"created": int(time.time()), "data": data, "x_unclip": timing})

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
                data.append({"url": base + self.store.add(file), "seed": seed})
            else:
                data.append({"b64_json": base64.b64encode(file).decode(), "seed": seed})
        return data

    def encode(self, wanted: GenerationRequest, image: Image.Image) -> bytes:
        """Encodes an image as PNG at the requested size, with its marks."""
        settings = self.marks.settings(image)
        if image.width != wanted.size:
            image = image.resize((wanted.size, wanted.size), Image.Resampling.LANCZOS)
        if isinstance(wanted, EditRequest):
            image = composite_kept(image, wanted.image, wanted.mask)
        if isinstance(wanted, EditRequest | OutpaintRequest):
            return encode(image, self.marks, part=True, mask=wanted.mask, settings=settings)
        return encode(image, self.marks, part=False, settings=settings)

    def _stream(self, wanted: GenerationRequest, client: str) -> Response:
        """Returns the events of the newer Images API."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is for nginx
        events = self._events(wanted, self.follow(wanted, client))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

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
                        name, more = (
                            "completed",
                            {"seed": now.seeds[0], "x_unclip": {"seconds": round(now.seconds, 3)}},
                        )
                    yield await asyncio.to_thread(event, name, now.images[0], more)
        except UnclipError as error:
            refused = error if isinstance(error, ApiError) else ApiError(str(error))
            yield f"event: error\ndata: {json.dumps(refused.body)}\n\n"
        except Exception:  # logged by the worker; the status has been sent, so only an event can say it
            yield f"event: error\ndata: {json.dumps(internal_error().body)}\n\n"

    def _event(self, wanted: GenerationRequest, name: str, image: Image.Image, more: dict[str, Any]) -> str:
        kind = "image_edit" if isinstance(wanted, EditRequest) else "image_generation"
        data = {
            "type": f"{kind}.{name}",
            "b64_json": base64.b64encode(self.encode(wanted, image)).decode(),
            "created_at": int(time.time()),
            "size": f"{wanted.size}x{wanted.size}",
            "output_format": "png",
            "quality": "auto",
            "background": "opaque",
            **more,
        }
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"

"""From a request in the queue to the answer: one JSON object, or events while the picture forms."""

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
from unclip.serve.envelope import ApiError
from unclip.serve.pictures import Marks, encode, keep
from unclip.serve.request import EditRequest, GenerationRequest, OutpaintRequest
from unclip.serve.store import Store
from unclip.serve.worker import Job, Pictures, Worker


@dataclass(frozen=True)
class UnderWay:
    """Pictures that are being drawn, as far as they are; `number` counts from 0."""

    number: int
    images: list[Image.Image]


@dataclass(frozen=True)
class Artist:
    """Draws what is asked for and answers with it, marked."""

    worker: Worker
    store: Store
    marks: Marks = field(default_factory=Marks)

    async def answer(self, request: Request, wanted: GenerationRequest, base: str) -> Response:
        """The pictures, at `base` where URLs are asked for.

        Raises:
            ApiError: no room in the queue, or the client went away.
        """
        if wanted.partial_images is not None:
            return self._stream(wanted)
        job = self.worker.submit(wanted)
        pictures = await self._result(request, job)
        data = await asyncio.to_thread(self._data, wanted, pictures, base)
        timing = {"seconds": round(pictures.seconds, 3)}
        return JSONResponse({"created": int(time.time()), "data": data, "x_unclip": timing})

    async def _result(self, request: Request, job: Job) -> Pictures:
        """Waits for the pictures, or for the client to go away: then the work is stopped."""
        result: asyncio.Future[Pictures] = asyncio.wrap_future(job.result)
        # The body is read, so all that can still come is the end.
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ApiError("The client closed the request.", status=499)
            return result.result()
        finally:
            gone.cancel()
            self._leave(job, result)

    def _leave(self, job: Job, result: asyncio.Future[Pictures]) -> None:
        """Whoever waited has left: what is not done yet need not be."""
        if not job.result.done():
            result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # which nobody else will see
            self.worker.cancel(job)

    def _data(self, wanted: GenerationRequest, pictures: Pictures, base: str) -> list[dict[str, Any]]:
        """The pictures as the client asked for them, each with its seed."""
        data = []
        for image, seed in zip(pictures.images, pictures.seeds, strict=True):
            file = self.file(wanted, image)
            if wanted.response_format == "url":
                data.append({"url": base + self.store.add(file), "seed": seed})
            else:
                data.append({"b64_json": base64.b64encode(file).decode(), "seed": seed})
        return data

    def file(self, wanted: GenerationRequest, image: Image.Image) -> bytes:
        """The picture as PNG, at the size that was asked for, marked."""
        settings = self.marks.settings(image)
        if image.width != wanted.size:
            image = image.resize((wanted.size, wanted.size), Image.Resampling.LANCZOS)
        if isinstance(wanted, EditRequest):
            image = keep(image, wanted.image, wanted.mask)
        if isinstance(wanted, EditRequest | OutpaintRequest):
            return encode(image, self.marks, part=True, mask=wanted.mask, settings=settings)
        return encode(image, self.marks, part=False, settings=settings)

    def _stream(self, wanted: GenerationRequest) -> Response:
        """The picture under way and, at the end, done, as server-sent events of the newer Images API."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx
        events = self._events(wanted, self.follow(wanted))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def follow(self, wanted: GenerationRequest) -> AsyncGenerator[UnderWay | Pictures]:
        """The pictures under way, as often as the request asks for, and at the end those that are done.

        The work is stopped when the generator is closed before its end.

        Raises:
            ApiError: no room in the queue.
        """
        loop = asyncio.get_running_loop()
        shown: asyncio.Queue[UnderWay] = asyncio.Queue()

        def show(number: int, images: list[Image.Image]) -> None:
            loop.call_soon_threadsafe(shown.put_nowait, UnderWay(number, images))

        return self._follow(self.worker.submit(wanted, show), shown)

    async def _follow(self, job: Job, shown: asyncio.Queue[UnderWay]) -> AsyncGenerator[UnderWay | Pictures]:
        result: asyncio.Future[Pictures] = asyncio.wrap_future(job.result)
        try:
            while not (result.done() and shown.empty()):
                look: asyncio.Future[Any] = asyncio.ensure_future(shown.get())
                await asyncio.wait([look, result], return_when=asyncio.FIRST_COMPLETED)
                if look.done():
                    yield look.result()
                else:
                    look.cancel()
            yield result.result()
        finally:
            self._leave(job, result)

    async def _events(
        self, wanted: GenerationRequest, course: AsyncGenerator[UnderWay | Pictures]
    ) -> AsyncIterator[str]:
        kind = "image_edit" if isinstance(wanted, EditRequest) else "image_generation"
        event = partial(self._event, kind, wanted)
        try:
            async with aclosing(course):
                async for now in course:
                    more: dict[str, Any]
                    if isinstance(now, UnderWay):
                        name, more = "partial_image", {"partial_image_index": now.number}
                    else:
                        name, more = "completed", {"seed": now.seeds[0], "x_unclip": {"seconds": round(now.seconds, 3)}}
                    yield await asyncio.to_thread(event, name, now.images[0], more)
        except UnclipError as error:
            refused = error if isinstance(error, ApiError) else ApiError(str(error))
            yield f"event: error\ndata: {json.dumps(refused.body)}\n\n"
        except Exception:  # which the worker has logged; the status has been sent, so only an event can say it
            body = ApiError("The server had an error.", status=500, kind="server_error").body
            yield f"event: error\ndata: {json.dumps(body)}\n\n"

    def _event(self, kind: str, wanted: GenerationRequest, name: str, image: Image.Image, more: dict[str, Any]) -> str:
        data = {
            "type": f"{kind}.{name}", "b64_json": base64.b64encode(self.file(wanted, image)).decode(),
            "created_at": int(time.time()), "size": f"{wanted.size}x{wanted.size}", "output_format": "png",
            "quality": "auto", "background": "opaque", **more,
        }  # fmt: skip
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"

"""Invalid requests for `fuzz_serve.py`: forms, pictures, JSON and headers."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from PIL import Image
from server_process import KEY, request


class Case(NamedTuple):
    """Bytes to send. If `broken`, they are no complete HTTP request, and the server may just hang up."""

    kind: str
    sent: bytes
    broken: bool = False


def part(name: str, value: bytes, filename: str | None = None, kind: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{kind}\r\n'
    return head.encode("utf-8", "surrogateescape") + value + b"\r\n"


def form(path: str, *parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return request(path, b"".join(parts) + end, "multipart/form-data; boundary=x")


def encoded(image: Image.Image, format: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims the given size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + chunk(b"IEND", b"")
    )


PIXELS = Image.radial_gradient("L").resize((64, 64))
PICTURES = {kind: encoded(PIXELS.convert("RGB"), kind) for kind in ("PNG", "JPEG", "WEBP")}
FILM = encoded(PIXELS, "WEBP", save_all=True, append_images=[PIXELS.rotate(90)], duration=50)
GIF = encoded(PIXELS, "GIF", save_all=True, append_images=[PIXELS.rotate(90)])
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>'
TEXT = b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20), 9))
MISFIT = encoded(
    Image.new("L", (9, 8), 255), "PNG"
)  # a mask of another size, so that valid pictures are refused too


def damaged(rng: random.Random) -> bytes:
    """A picture that is truncated, corrupted, extended or no picture at all."""
    data = bytearray(rng.choice([*PICTURES.values(), FILM]))
    how = rng.randrange(7)
    if how == 0:
        return bytes(data[: rng.randrange(len(data))])
    if how == 1:
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if how == 2:  # polyglots
        return rng.choice(
            [bytes(data) + b"PK\3\4<script>alert(1)</script>", b"GIF89a" + bytes(data), SVG + bytes(data)]
        )
    if how == 3:
        return bomb(
            rng.choice([1, 4096, 65_535, 100_000, 2**31 - 1]), rng.choice([1, 9, 4096, 100_000, 2**31 - 1])
        )
    if how == 4:
        return rng.choice([SVG, GIF, TEXT, b"", b"%PDF-1.4", b"P6 99999 99999 255\n"])
    if how == 5:
        at = rng.randrange(len(data))
        return bytes(data[:at]) + rng.randbytes(rng.randrange(100)) + bytes(data[at:])
    return rng.choice([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x99\0\0\0WEBPVP8L"]) + rng.randbytes(
        200
    )


def picture_case(rng: random.Random) -> Case:
    name = rng.choice(["a.png", "../../etc/passwd", "a\0.png", "x" * 300, "ü.png"])
    parts = [
        part("prompt", b"a cat"),
        part(rng.choice(["image", "image[]"]), damaged(rng), name),
        part("mask", MISFIT, "m"),
    ]
    rng.shuffle(parts)
    return Case("picture", form("/v1/images/edits", *parts))


VALUES = ["", "0", "-1", "11", "1e9", "NaN", "\0", "9" * 400, "a" * 2000]
VALUES += ["256x", "0x0", "url\0", "null", "[]", "🐶", "\udcff"]


CONTENT_TYPES = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=y",
    "text/plain",
    "multipart/mixed; boundary=x",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=" + "b" * 500,
]


def multipart_case(rng: random.Random) -> Case:
    """Forms with valid pictures and an invalid structure or field."""
    return Case("multipart", invalid_form(rng))


def invalid_form(rng: random.Random) -> bytes:
    path = rng.choice(["/v1/images/edits", "/v1/images/variations", "/images/variations"])
    good = part("image", PICTURES["PNG"], "a.png")
    how = rng.randrange(9)
    if how == 0:
        body = good + part("n", b"1") + b"--x--\r\n"
        return request(path, body[: rng.randrange(len(good))], "multipart/form-data; boundary=x")
    if how == 1:
        return request(path, good + b"--x--\r\n", rng.choice(CONTENT_TYPES))
    if how == 2:
        name = rng.choice(["n", "size", "response_format", "seed", "steps", "guidance_scale"])
        wrong = {"n": "11", "seed": "-1", "steps": "0", "guidance_scale": "99"}
        odd = wrong[name] if name in wrong else rng.choice(VALUES)
        return form(path, good, part("prompt", b"x"), part(name, odd.encode("utf-8", "surrogateescape")))
    if how == 3:
        return form(path, *[part(f"f{i}", b"1") for i in range(rng.choice([65, 1000]))])
    if how == 4:
        return form(path, *[part("image", b"", f"{i}.png") for i in range(rng.choice([17, 200]))])
    if how == 5:
        return form(path, b"--x\r\n" + rng.randbytes(rng.randrange(2000)) + b"\r\n\r\n", good)
    if how == 6:
        return form(path, part("prompt", b"p" * rng.choice([1001, 70_000])), part("image", b"", "a"))
    if how == 7:
        return form(path, part("image", rng.choice([b"http://127.0.0.1:9/a.png", b"file:///etc/passwd"])))
    broken = bytearray(part("image", b"no picture", "a.png") + part("mask", MISFIT, "m"))
    for _ in range(rng.randrange(1, 30)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return request(path, bytes(broken), "multipart/form-data; boundary=x")


def json_case(rng: random.Random) -> Case:
    whole = json.dumps({"prompt": "a cat", "n": 1, "size": "256x256"}).encode()
    odd: Any = rng.choice([None, True, 0, -1, 11, 1e300, "", "x" * 1001, [], {}, [[]], "\0", "0x0", "\ud800"])
    field = rng.choice(["prompt", "n", "size", "response_format", "seed", "steps", "guidance_scale", "model"])
    unset = odd is None and field in ("n", "size", "response_format", "seed", "model")  # valid
    body = rng.choice(
        [
            whole[: rng.randrange(len(whole))],
            rng.randbytes(50),
            b"[" * rng.randrange(1, 200_000),
            b'{"prompt": ' * 5000,
            json.dumps({"prompt": "x", "n": 11, field: odd} if not unset else {"n": 1}).encode(),
            b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}",
            b'{"prompt": "\\u0000"}',
            b"\xff\xfe" + whole,
        ]
        if not isinstance(odd, list | dict)
        else [json.dumps({"n": 11, "prompt": odd}).encode()]
    )
    path = rng.choice(["/v1/images/generations", "/images/generations", "/v1/images/embeddings"])
    return Case("json", request(path, body, "application/json"))


def responses_case(rng: random.Random) -> Case:
    """Bodies of the Responses API, and embeddings that cannot be decoded."""
    odd: Any = rng.choice(
        [
            True,
            0,
            1e300,
            math.nan,
            [],
            {},
            [[]],
            [1, math.inf],
            "\0",
            "\ud800",
            "http://127.0.0.1:9/x",
            "AAAA",
        ]
    )
    tool: dict[str, Any] = {"type": "image_generation"}
    message = {"role": "user", "content": [{"type": "input_image", "image_url": odd}]}
    texts = [{"type": "input_text", "text": "a"}, *message["content"]]
    body: dict[str, Any] = rng.choice(
        [
            {"input": odd, "tools": [{**tool, "size": 5}]},
            {"input": "a", "tools": odd},
            {"input": "a", "tools": [{**tool, rng.choice(["size", "output_format", "image_embeds"]): odd}]},
            {"input": "a", "tools": [{**tool, "model": odd, "action": "edit"}]},
            {"input": "a", "tools": [{**tool, "x": "\ud800"}]},
            {"input": [message], "tools": [tool]},
            {"input": [{"role": "user", "content": texts}], "tools": [tool]},
            {"input": [{"type": "image_generation_call", "result": "é"}], "tools": [tool]},
            {"input": [{"role": "user", "content": odd}], "tools": [tool], "previous_response_id": "a"},
        ]
    )
    if rng.randrange(3) == 0:
        sent = json.dumps({"image_embeds": odd}).encode()
        return Case("responses", request("/v1/images/generations", sent, "application/json"))
    return Case("responses", request("/v1/responses", json.dumps(body).encode(), "application/json"))


def header_case(rng: random.Random) -> Case:
    """Invalid paths, keys, methods and headers."""
    how = rng.randrange(8)
    if how == 0:
        names = [
            "../.key",
            "..%2f.key",
            "%2e%2e/%2e%2e/etc/passwd",
            "img-" + "0" * 32 + ".png",
            ".key",
            "a" * 5000,
            "%00",
        ]
        query = rng.choice(["", "?exp=9999999999&sig=0", "?exp=%00&sig=%ff", "?exp=" + "9" * 900])
        return Case("header", request(f"/v1/files/images/{rng.choice(names)}{query}", b"", "", "GET"))
    if how == 1:
        sent = request("/v1/models", b"", "", "GET").replace(
            KEY.encode(), rng.choice([b"", b"sk-x", b"\xff\xfe", b"k" * 9000])
        )
        return Case("header", sent)
    if how == 2:
        return Case(
            "header",
            request("/v1/images/edits", b"", "", rng.choice(["GET", "PUT", "DELETE", "PATCH", "TRACE"])),
        )
    if how == 3:
        return Case(
            "header", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"a" * 100_000 + b"\r\n\r\n", broken=True
        )
    if how == 4:
        sent = request("/v1/images/generations", b"{}", "application/json")
        length = rng.choice([b"-1", b"x", b"99999999999999999999", b"5"])
        return Case("header", sent.replace(b"Length: 2", b"Length: " + length), broken=True)
    if how == 5:
        head = b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        return Case(
            "header", head + rng.choice([b"zz\r\n", b"5\r\nab", b"-1\r\n", b"ffffffff\r\na"]), broken=True
        )
    if how == 6:
        return Case("header", rng.randbytes(rng.randrange(1, 500)) + b"\r\n\r\n", broken=True)
    return Case(
        "header",
        request(
            rng.choice(["/", "/v1", "/docs", "/v2/models", "//", "/v1/images"]) + "/none", b"", "", "GET"
        ),
    )


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    multipart_case,
    picture_case,
    json_case,
    responses_case,
    header_case,
)


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Cases of each kind in turn."""
    for i in range(count):
        yield KINDS[i % len(KINDS)](random.Random(f"{seed}/{i}"))

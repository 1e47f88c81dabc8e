"""OpenAI's cookbook for DALL·E 2: generate, vary, mask, edit. Runs with `openai` 1, 2 and 3.

The environment variable OPENAI_BASE_URL names the server.
"""

import io
import os
import urllib.request

from openai import OpenAI
from PIL import Image

SIZE = os.environ["SIZE"]


def save(url: str, name: str) -> bytes:
    with urllib.request.urlopen(url) as answer, open(name, "wb") as file:
        data = answer.read()
        file.write(data)
    side = int(SIZE.partition("x")[0])
    assert Image.open(io.BytesIO(data)).size == (side, side)
    return data


client = OpenAI()
generation = client.images.generate(
    model="dall-e-2", prompt="a raccoon in a red hat", n=1, size=SIZE, response_format="url"
)
save(generation.data[0].url, "generated.png")

variations = client.images.create_variation(
    image=open("generated.png", "rb"), n=2, size=SIZE, response_format="url"
)
assert len({save(one.url, f"variation-{i}.png") for i, one in enumerate(variations.data)}) == 2

width, height = Image.open("generated.png").size
mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
mask.paste((0, 0, 0, 0), (0, height // 2, width, height))  # only what is transparent is painted
mask.save("mask.png")
edit = client.images.edit(
    model="dall-e-2",
    image=open("generated.png", "rb"),
    mask=open("mask.png", "rb"),
    prompt="a raccoon in the snow",
    n=1,
    size=SIZE,
    response_format="url",
)
save(edit.data[0].url, "edited.png")
top = (0, 0, width, height // 2)
before, after = (
    Image.open(name).convert("RGB").crop(top).tobytes() for name in ("generated.png", "edited.png")
)
difference = max(abs(a - b) for a, b in zip(before, after))
assert difference <= 24, "pixels outside the mask have changed by more than a watermark"
print(f"{len(client.models.list().data)} models, 1 picture, 2 variations, 1 edit")

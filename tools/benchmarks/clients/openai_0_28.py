"""A program of 2023, for `openai` 0.28, whose functions were of the module."""

import os
import urllib.request

import openai

SIZE = os.environ["SIZE"]
openai.api_base = os.environ["OPENAI_BASE_URL"]
made = openai.Image.create(prompt="a raccoon in a red hat", n=1, size=SIZE)
urllib.request.urlretrieve(made["data"][0]["url"], "generated.png")
varied = openai.Image.create_variation(
    image=open("generated.png", "rb"), n=2, size=SIZE, response_format="b64_json"
)
assert all(one["b64_json"] for one in varied["data"])
edited = openai.Image.create_edit(
    image=open("generated.png", "rb"),
    mask=open("generated.png", "rb"),
    prompt="a raccoon in the snow",
    n=1,
    size=SIZE,
)
assert edited["data"][0]["url"]
try:
    openai.Image.create(prompt="a raccoon", n=11)
except openai.error.InvalidRequestError as error:
    assert "maximum of 10" in str(error)
else:
    raise AssertionError("eleven pictures were not refused")
print(f"{len(openai.Model.list()['data'])} models, 1 picture, 2 variations, 1 edit, 1 refusal")

"""LiteLLM, which speaks to many providers as if they were OpenAI."""

import io
import os
import urllib.request

import litellm

SIZE = os.environ["SIZE"]
where = {
    "model": "openai/dall-e-2",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
}
made = litellm.image_generation(prompt="a raccoon in a red hat", size=SIZE, **where)
with urllib.request.urlopen(made.data[0].url) as answer:
    file = answer.read()
picture = io.BytesIO(file)
picture.name = "generated.png"
varied = litellm.image_variation(image=picture, **where)  # it sends nothing else, not even n
assert varied.data[0].url
edited = litellm.image_edit(image=io.BytesIO(file), prompt="a raccoon in the snow", size=SIZE, **where)
assert edited.data[0].url or edited.data[0].b64_json
print("1 picture, 1 variation, 1 edit without a mask")

"""LangChain's wrapper for pictures, which returns a URL."""

import os
import urllib.request

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

url = DallEAPIWrapper(size=os.environ["SIZE"]).run("a raccoon in a red hat")
with urllib.request.urlopen(url) as answer:
    assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
print("1 picture")

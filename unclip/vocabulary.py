"""Splitting of prompts into words, as a model's vocabulary lists them."""

from __future__ import annotations

import re


def prompt_words(text: str) -> list[str]:
    """The text's words in lower case, without punctuation; apostrophes and hyphens within a word stay."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())

"""mkdocs hook: links from pages to files of the repository, and formulas as MathML.

In the repository a page may link to any file of it (`../../unclip/…`). The site holds the pages only: there
such a link leads to `repo_url` if mkdocs.yml names one, and is plain text otherwise. A link to a file that
does not exist is a warning, which `mkdocs build --strict` makes an error.
"""

from __future__ import annotations

import html
import logging
import re
import unicodedata
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.repository_links")

LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(((?:\.\./)+[^)#\s]+)(#[^)]*)?\)")
VARIANT = re.compile(r'<mi mathvariant="(bold|script|bold-italic)">([^<]+)</mi>')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Rewrites links that leave the documentation (mkdocs calls this)."""
    docs = Path(config.docs_dir).resolve()
    here = Path(page.file.abs_src_path or "").parent

    def rewritten(found: re.Match[str]) -> str:
        text, target, _anchor = found.groups()
        path = (here / target).resolve()
        if path.is_relative_to(docs):
            return found[0]
        if not path.exists():
            log.warning("%s: links to %s, which does not exist", page.file.src_uri, target)
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path.relative_to(docs.parent).as_posix()})"

    return LINK.sub(rewritten, markdown)


def on_page_content(content: str, **_: object) -> str:
    """Turns formulas into MathML, which browsers show without a script (mkdocs calls this)."""
    return FORMULA.sub(
        lambda found: mathml(html.unescape(found[2]), "inline" if found[1] == "span" else "block"), content
    )


def mathml(latex: str, display: str) -> str:
    """A formula as MathML Core, which has letters of their own where older MathML has `mathvariant`."""
    return VARIANT.sub(
        lambda found: f"<mi>{letter(html.unescape(found[2]), found[1])}</mi>", convert(latex, display=display)
    )


def letter(plain: str, variant: str) -> str:
    """The bold or script form of a letter in Unicode; the letter itself where there is none."""
    name = unicodedata.name(plain).replace("LATIN ", "").replace("GREEK ", "").replace("LETTER ", "")
    for style in (f"MATHEMATICAL {variant.upper().replace('-', ' ')}", variant.upper()):
        try:
            return unicodedata.lookup(f"{style} {name}")
        except KeyError:
            continue
    return plain

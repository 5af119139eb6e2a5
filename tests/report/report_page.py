"""The page as a test reads it: its elements, its text, its pictures."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from robustcheck.report.html import html
from robustcheck.results import AuditReport

VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes and the text of a page; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        attributes = [attributes for name, attributes in self.elements if name == tag]
        return [one for one in attributes if all(one.get(key) == value for key, value in wanted.items())]

    def pictures(self) -> list[np.ndarray]:
        prefix = "data:image/png;base64,"
        sources = [one["src"] or "" for one in self.of("img")]
        assert all(source.startswith(prefix) for source in sources)
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source[len(prefix) :])))) for source in sources]


def page(one: AuditReport, folder=None) -> Page:
    return Page(html(one, folder, beside=True))

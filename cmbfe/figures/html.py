"""HTML pages from templates. Pages share one style, escape all text, and are self-contained files."""

import base64
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


@cache
def templates(package: str) -> Environment:
    """The templates of a package. They can extend the shared templates of the figures: page, tables and SVG."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("cmbfe.figures")])
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(content: bytes, kind: str) -> str:
    """The bytes of a PNG or JPEG file as a data URI; `kind`: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"

"""HTML pages from templates: one look, everything escaped, each page a single file that needs nothing else."""

import base64
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


@cache
def templates(package: str) -> Environment:
    """The folder `templates` of a package and, to build on, those of the figures: page, tables and SVG."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("cmbfe.figures")])
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(content: bytes, kind: str) -> str:
    """A PNG or JPEG file as the address of an image that holds its own bytes; `kind`: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"

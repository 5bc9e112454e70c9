"""Pages that need no other file and no network: templates, styles, scripts and data in one HTML text."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

ASSETS = files("qtuning") / "assets"


def asset(path: str) -> str:
    """The text of a file of qtuning/assets."""
    return ASSETS.joinpath(path).read_text(encoding="utf-8")


def render(template: str, css: Sequence[str], libraries: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A page of a template of assets/, which places `policy`, `css`, `scripts` and what `values` hold.

    css, libraries, scripts: names of files of assets/. Libraries are embedded as they are; our scripts are one strict
    scope. The page's Content-Security-Policy lets the browser run these scripts and no other, and ask nobody for
    anything; pictures are data: of the page itself.
    """
    ours = "\n".join(map(asset, scripts))
    embedded = [*map(asset, libraries), f'(() => {{\n"use strict";\n{ours}}})();\n']
    allowed = " ".join(map(_digest, embedded))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(asset(template)).render(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:",
        css=Markup("".join(map(asset, css))),
        scripts=list(map(Markup, embedded)),
        **values,
    )


def json_block(value: Any) -> Markup:
    """A JSON value for a `<script type="application/json">`: no text in it can end the element.

    Not compressed, unlike the blocks of the explorer: another build of zlib gives other bytes.
    """
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"

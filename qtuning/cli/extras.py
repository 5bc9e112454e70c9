"""Which extra of qtuning installs what a command misses."""

import re
from importlib.metadata import PackageNotFoundError, requires

OTHERWISE = {"antlr4": "antlr4-python3-runtime"}
"""Modules that are not called like their package."""


def extra_of(module: str) -> str | None:
    """The first extra that installs a module, as `pip install 'qtuning[EXTRA]'` wants it; None if none does."""
    top = module.partition(".")[0]
    package = _plain(OTHERWISE.get(top, top))
    try:
        requirements = requires("qtuning") or []
    except PackageNotFoundError:  # used from a folder, without installation
        return None
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == [\"']([\w-]+)[\"']", requirement)
        if name and extra and _plain(name[0]) == package:
            return extra[1]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

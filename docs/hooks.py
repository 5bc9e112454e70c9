"""What the site shows beside docs/: pages of the repository's root, the API, and source files that pages link to.

MkDocs calls the `on_...` functions (mkdocs.yml, `hooks`).
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page of the site -> file in the root of the repository."""
ROOMS = (
    *("experiment", "data", "model", "scoring", "pruners", "train", "evaluation", "probes", "integrations"),
    *("store", "statistics", "tables", "paper", "figures", "plan", "cli"),
)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".smk": "python", ".toml": "toml", ".yml": "yaml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference of the API at the end of the navigation, a page a room."""
    assert config.nav is not None
    config.nav.append({"API": [f"api/{name}.md" for name in (*ROOMS, "root")]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    for name in (*ROOMS, "root"):
        files.append(File.generated(config, f"api/{name}.md", content=describe_room(name)))
    for path in sorted(find_linked_sources(files)):
        files.append(File.generated(config, f"source/{path}.md", content=show_source(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages of the site."""
    if page.file.src_uri.startswith(("api/", "source/")):
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def turn(found: re.Match[str]) -> str:
        text, path, anchor = found[1], locate(page.file.src_uri, found[2]), found[3] or ""
        if path is None:
            return found[0]
        if (REPOSITORY / path).is_dir():
            return text  # a folder is no page
        return f"[{text}]({posixpath.relpath(page_of(path), here or '.')}{anchor})"

    return LINK.sub(turn, markdown)


def locate(page: str, link: str) -> str | None:
    """The file or folder that a link of a page means, relative to the repository; None for one of the web."""
    if "://" in link or link.startswith("mailto:"):
        return None
    home = "" if page in PAGES else posixpath.join("docs", posixpath.dirname(page))
    path = posixpath.normpath(posixpath.join(home, link))
    return path if (REPOSITORY / path).exists() else None


def page_of(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    for page, source in PAGES.items():
        if path == source:
            return page
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def find_linked_sources(files: Files) -> set[str]:
    """Files outside docs/ that some page links to."""
    found = set()
    for file in files.documentation_pages():
        if file.src_uri.startswith("api/"):
            continue
        for link in LINK.finditer(file.content_string):
            path = locate(file.src_uri, link[2])
            if path is not None and (REPOSITORY / path).is_file() and page_of(path).startswith("source/"):
                found.add(path)
    return found


def show_source(path: str) -> str:
    """A page with the text of a file."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"# {Path(path).name}\n\n`{path}`\n\n````{language}\n{text}````\n"


def describe_room(name: str) -> str:
    """The page of a room: what it is, then all its modules that have a docstring."""
    folder = REPOSITORY / "qtuning" / ("" if name == "root" else name)
    prefix = "qtuning." if name == "root" else f"qtuning.{name}."
    modules = [f"{prefix}{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]
    about: Any = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    if name == "root":
        about = "Modules that lie beside the rooms."
    body = "\n\n".join(f"::: {module}" for module in modules)
    return f"# {prefix.rstrip('.') if name != 'root' else 'qtuning'}\n\n{about or ''}\n\n{body}\n"

"""A small Hugging Face hub on this machine: the part of its HTTP API that huggingface_hub and datasets use.

Repositories are files in memory, by commit. Tests ask it what it was asked, and have it break a download.
"""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_the_licence_is_accepted"
API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/?]+)(?:/(.*))?|/(auth-check))?"
)
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """commits: files by name, by commit. refs: commits by branch or tag."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit that a revision means now."""
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Hub:
    """What is served, and what was asked.

    broken: names of files whose next download ends after so many bytes; failing: names of files that the server fails
    to send; claimed: sizes that it says files have. requests: (method, path). sent: body bytes by name of file; ranges:
    what was asked of a file with a Range header.
    """

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    claimed: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def add(
        self, kind: str, id: str, files: Mapping[str, bytes | str], *, gated: bool = False, commit: str | None = None
    ) -> str:
        """A new commit on main of a repository, which is made if there is none; returns the commit."""
        contents = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        commit = commit or hashlib.sha1(repr(sorted(contents.items())).encode() + id.encode()).hexdigest()
        repo = self.repos.setdefault((f"{kind}s", id), Repo({}, {}, gated))
        repo.commits[commit] = contents
        repo.refs["main"] = commit
        return commit


def serve(hub: Hub) -> http.server.ThreadingHTTPServer:
    """Serve `hub` from a thread, at `hub.url`; the caller shuts the server down."""

    class Handler(_Handler):
        served = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.served.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if (match := API.fullmatch(path)) is not None:
            self._api(*match.groups(), body=body, query=parse_qs(parts.query))
        elif (match := FILE.fullmatch(path)) is not None:
            self._file(*match.groups())
        else:
            self._refuse(404, "")

    do_HEAD = do_POST = do_GET

    def _api(
        self,
        kind: str,
        id: str,
        what: str | None,
        revision: str | None,
        inside: str | None,
        auth: str | None,
        *,
        body: bytes,
        query: dict[str, list[str]],
    ) -> None:
        repo = self.served.repos.get((kind, id))
        if repo is None:
            return self._refuse(404 if self._allowed() else 401, "RepoNotFound")
        if auth:
            return self._refuse(403, "GatedRepo") if repo.gated and not self._allowed() else self._json({})
        commit = repo.commit(revision or "main")
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if what == "tree":
            below = f"{inside}/" if inside else ""
            names = [name for name in files if name.startswith(below)]
            if inside and not names:
                return self._refuse(404, "EntryNotFound")
            folders = [folder for folder in _folders(names) if folder.startswith(below)]
            if "true" not in query.get("recursive", [""])[0].lower():
                names = [name for name in names if "/" not in name.removeprefix(below)]
                folders = [folder for folder in folders if "/" not in folder.removeprefix(below)]
            return self._json([*map(_folder, folders), *(_entry(name, files[name]) for name in names)])
        if what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            asked = [asked] if isinstance(asked, str) else asked
            entries = [_entry(name, files[name]) for name in asked if name in files]
            return self._json([*entries, *(_folder(name) for name in asked if name in _folders(files))])
        siblings = [
            {"rfilename": name, "size": self.served.claimed.get(name, len(data))} for name, data in files.items()
        ]
        self._json({"id": id, "sha": commit, "private": False, "gated": repo.gated, "tags": [], "siblings": siblings})

    def _file(self, prefix: str | None, id: str, revision: str, name: str) -> None:
        repo = self.served.repos.get(("datasets" if prefix else "models", id))
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        if repo.gated and not self._allowed():
            return self._refuse(403, "GatedRepo")
        commit = repo.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if name not in repo.commits[commit]:
            return self._refuse(404, "EntryNotFound", commit)
        if name in self.served.failing and self.command == "GET":
            return self._refuse(500, "")
        data, start = repo.commits[commit][name], 0
        if (asked := self.headers.get("Range")) is not None:
            self.served.ranges.append((name, asked))
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_blob(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = self.served.broken.pop(name, None)
        part = data[start:stop]
        self.wfile.write(part)
        self.served.sent[name] = self.served.sent.get(name, 0) + len(part)
        if stop is not None:
            self.wfile.flush()
            self.close_connection = True  # in the middle of the body, as when a line breaks

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        """Silence."""


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names it


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}


def _folder(name: str) -> dict[str, Any]:
    return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def _folders(names: Iterable[str]) -> list[str]:
    return sorted({name[: place.start()] for name in names for place in re.finditer("/", name)})

"""A server of our own that downloads are tested against: plain files, and the hub's API for any number of repositories.

Kept apart from the library: it answers as the hub does (`/api/…` describes and lists, `/resolve/` gives files, errors
carry `X-Error-Code`), and knows nothing of what will be asked.
"""

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves `files` by path, and `repos` (`datasets/owner/name` or `owner/name`: files by name) as the hub does.

    `break_after` cuts the first answers with a body short, `status` answers with errors instead; both are used up.
    `gated`: repositories of which files (and, with `gated_listing`, the listing) are refused. `busy`: requests of a
    kind (`api`, `resolve`) that are answered 429, until it is cleared.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.break_after: list[int] = []
        self.status: list[int] = []
        self.more: dict[str, str | None] = {}  # further headers of every answer; None = that one is left out
        self.ranges = True
        self.gated: set[str] = set()
        self.gated_listing = False
        self.busy = ""
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_):
        pass  # a client that hangs up is what some tests are about

    def url(self, name: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def environment(self, home) -> dict[str, str]:
        """Of a process that takes this server for the hub, with an empty cache in `home`."""
        hub = {"HF_ENDPOINT": self.url().rstrip("/"), "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        hub |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k != "HF_TOKEN"} | hub

    def downloaded(self) -> list[str]:
        """Repository and name of every file that was given out (asked for with GET), in order."""
        return [path for method, path in self.seen if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._hub(send=False)

    def do_GET(self):
        if self.path.startswith("/api/") or "/resolve/" in self.path:
            return self._hub()
        self.server.seen.append((self.path, self.headers.get("Range", "")))
        self._file(self.server.files.get(self.path.lstrip("/")))

    def _hub(self, send: bool = True) -> None:
        server, path = self.server, unquote(self.path.split("?")[0]).lstrip("/")
        server.seen.append((self.command, path))
        api = path.startswith("api/")
        if server.busy and server.busy in ("api" if api else "resolve"):
            return self._answer(429, b"", {"Retry-After": "0"})
        kind = path.removeprefix("api/").removeprefix("models/")
        repo = next((name for name in server.repos if f"{kind}/".startswith(f"{name}/")), None)
        if repo is None:
            return self._error(401 if api else 404, "RepoNotFound", "Repository not found")
        if repo in server.gated and (server.gated_listing or not api):
            return self._error(403, "GatedRepo", "Access to this repository is restricted.")
        names, rest = server.repos[repo], kind.removeprefix(repo).strip("/")
        if not api:
            content = names.get(rest.removeprefix("resolve/").partition("/")[2])
            if content is None:
                return self._error(404, "EntryNotFound", "Entry not found")
            if not send:
                digest = hashlib.sha256(content).hexdigest()
                headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
                return self._answer(200, b"", headers)
            return self._file(content)
        revision = rest.partition("revision/")[2]
        if revision.startswith("no-such"):
            return self._error(404, "RevisionNotFound", "Revision not found")
        siblings, sha = [{"rfilename": name} for name in names], revision if len(revision) == 40 else COMMIT
        about = {"id": repo.removeprefix("datasets/"), "sha": sha, "siblings": siblings, "private": False, "tags": []}
        self._answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _file(self, content: bytes | None) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        status = server.status.pop(0) if server.status else 404 if content is None else 200
        if status != 200:
            return self._answer(status, b"", {})
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start, condition = 0, self.headers.get("If-Range")
        if server.ranges and wanted and condition in (None, etag):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        if start >= len(content) > 0:
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if start else 200, content[start:], headers)

    def _error(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers, **self.server.more}
        self.close_connection = headers["Content-Length"] is None
        for name in [name for name, value in headers.items() if value is not None]:
            self.send_header(name, headers[name])
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.break_after.pop(0) if body and self.server.break_after else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True

    def log_message(self, *_):
        pass

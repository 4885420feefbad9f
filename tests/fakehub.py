"""A small Hugging Face hub on loopback: the resolve routes that huggingface_hub's own client asks for.

Small files are served in place with git's blob digest as ETag; large ones (here: what is not JSON) are
redirected to another host with their SHA-256, as the hub does with LFS files. Ranges are honoured.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Hub:
    """What the hub holds, what it breaks, and what it was asked."""

    files: dict[tuple[str, str, str], bytes]
    """(repository, revision, file) -> content."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """file -> how many bytes each of its next transfers sends before it breaks off."""
    status: int | None = None
    """Answer everything with this status."""
    commit_header: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range)."""
    agents: set[str] = field(default_factory=set)
    url: str = ""
    cdn: str = ""
    """The same server by another name: the client follows redirects within a host by itself."""

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for, in order."""
        return [path for method, path, _ in self.requests if method == "GET"]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url, hub.cdn = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers["Range"]))
        hub.agents.add(self.headers["User-Agent"])
        match = RESOLVE.fullmatch(self.path.removeprefix("/cdn"))
        assert match, self.path
        repo, revision, file = match["repo"], match["revision"], match["file"]
        if hub.status:
            return self._refuse(hub.status, "")
        if repo not in {key[0] for key in hub.files}:
            return self._refuse(404, "RepoNotFound")
        if (repo, revision) not in {key[:2] for key in hub.files}:
            return self._refuse(404, "RevisionNotFound")
        if (repo, revision, file) not in hub.files:
            return self._refuse(404, "EntryNotFound")
        return self._serve(hub.files[repo, revision, file], revision, file)

    def _serve(self, data: bytes, revision: str, file: str) -> None:
        headers = {"X-Repo-Commit": revision} if self.hub.commit_header else {}
        if file.endswith(".json"):
            headers["ETag"] = f'"{hashlib.sha1(b"blob %d" % len(data) + bytes(1) + data).hexdigest()}"'
        elif not self.path.startswith("/cdn"):
            headers |= {
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            return self._send(
                302, headers | {"Location": f"{self.hub.cdn}/cdn{self.path}", "Content-Length": "0"}
            )
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])  # type: ignore[index]
        part = data[start:]
        if self.headers["Range"]:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if self.headers["Range"] else 200, headers | {"Content-Length": str(len(part))})
        if self.command == "GET":
            cuts = self.hub.cuts.get(file, [])
            if cuts:
                part = part[: cuts.pop(0)]
                self.close_connection = True
            self.wfile.write(part)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

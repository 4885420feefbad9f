"""A server of S3 on this machine, in a process of its own: moto's, which keeps everything in memory.

    python tests/s3server.py

prints its address and serves until its standard input ends.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MISSING = [name for name in ("s3fs", "moto", "flask") if importlib.util.find_spec(name) is None]
"""Packages that this needs and that are not here."""
KEYS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@contextmanager
def serve() -> Iterator[dict[str, str]]:
    """The environment that leads clients to a server without buckets."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, **KEYS},
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "the server did not start"
        yield KEYS | {"AWS_ENDPOINT_URL": address, "AWS_CONFIG_FILE": os.devnull}
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(20)


def main() -> None:
    """Serve until nobody listens."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()

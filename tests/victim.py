"""A server to be attacked, in a process of its own, whose memory is looked at from outside.

    python3 -m tests.victim [--pool] [--tls FOLDER] [--descriptors 200] [--server NAME=VALUE] [--handler NAME=VALUE]

It echoes, and answers GET with a page. A handler at /deaf takes no message until the connection has ended, but has
them read into the inbox; the message "tell all" is answered with what a broadcast of 64 KiB to all others returned.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import resource
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websocketserver import (
    ConnectionClosed,
    PoolingWebSocketServer,
    State,
    ThreadingWebSocketServer,
    WebSocketRequestHandler,
)

from .program import Program
from .support import certificates

MIB = 1 << 20


class Handler(WebSocketRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(1000))

    def on_open(self) -> None:
        while self.path == "/deaf" and self.websocket.state is State.OPEN:
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                self.websocket.ping().wait(0.1)  # which reads what comes

    def on_message(self, message: str | bytes) -> None:
        if message == "tell all":
            message = str(self.server.broadcast(bytes(1 << 16)))  # type: ignore[attr-defined]
        self.websocket.send(message)

    def log_message(self, format: str, *args: Any) -> None:
        """Thousands of lines would help nobody, and fill the pipe that nobody reads."""


class Victim(Program):
    """That program, seen from the test. ``address`` and ``tls`` are as a Running's, for raw_client."""

    def __init__(
        self, *, pool: bool = False, tls: bool = False, descriptors: int = 0, server: Any = (), handler: Any = ()
    ) -> None:
        options = ["--pool"] * pool
        options += ["--descriptors", str(descriptors)]
        self._folder = tempfile.TemporaryDirectory()
        if tls:
            certificates().write(Path(self._folder.name))
            options += ["--tls", self._folder.name]
        for kind, settings in (("--server", dict(server)), ("--handler", dict(handler))):
            for name, value in settings.items():
                options += [kind, f"{name}={value!r}"]
        super().__init__("-m", "tests.victim", *options)
        self.tls = tls
        try:
            self.address = ("127.0.0.1", int(self.line()))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._folder.cleanup()

    def open_descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def seconds(self) -> float:
        """Return how much time of a processor it has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, name: str = "VmRSS") -> int:
        """Return a figure of its memory, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024

    @contextlib.contextmanager
    def growing_at_most(self, size: int) -> Iterator[None]:
        """Fail if it has become larger by more than so many bytes at any moment of the block."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        before = self.memory()
        yield
        assert self.process.poll() is None, self.wait()
        growth = self.memory("VmHWM") - before
        print(f"grown by {growth / MIB:.1f} MiB")
        assert growth <= size, f"grown by {growth / MIB:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--tls", type=Path, metavar="FOLDER")
    parser.add_argument("--descriptors", type=int, default=0, help="how many it may have open (default: as given)")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--handler", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    kind: Any = PoolingWebSocketServer if arguments.pool else ThreadingWebSocketServer
    kind.log_message = Handler.log_message
    for owner, settings in ((kind, arguments.server), (Handler, arguments.handler)):
        for setting in settings:
            name, _, value = setting.partition("=")
            assert hasattr(owner, name), name
            setattr(owner, name, ast.literal_eval(value))
    context = None
    if arguments.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.tls / "server.pem", arguments.tls / "server.key")
    with kind(("127.0.0.1", 0), Handler, ssl_context=context) as server:
        if arguments.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.descriptors, arguments.descriptors))
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

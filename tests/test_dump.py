"""Dump: all connections and what all threads do, as text, whatever is stuck."""

from __future__ import annotations

import re
import signal
import threading
from typing import Any

import pytest

from websocketserver import ThreadingWebSocketServer, WebSocketClient

from .serving import OURS, Quiet, connected, leave, serving
from .support import SOON, raw_client, run_in_thread, running_server, wait_until

TEXT = 1


@pytest.fixture(params=OURS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class Stuck(Quiet):
    """Waits in a hook for the test."""

    inside: threading.Event
    go: threading.Event
    subprotocols = ("chat",)

    def on_message(self, message: str | bytes) -> None:
        self.stuck_in_here()

    def do_GET(self) -> None:
        self.stuck_in_here()

    def stuck_in_here(self) -> None:
        self.inside.set()
        assert self.go.wait(SOON)


def stuck(server_class: Any, **options: Any) -> Any:
    return serving(Stuck, server_class=server_class, inside=threading.Event(), go=threading.Event(), **options)


def paragraph(text: str, beginning: str) -> str:
    [found] = [each for each in text.split("\n\n") if each.startswith(beginning)]
    return found


class TestDump:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_tells_of_each_connection_and_where_its_handler_is(self, server_class: Any, tls: bool) -> None:
        with stuck(server_class, tls=tls) as running:
            kind = running.server.RequestHandlerClass
            headers = {"Sec-WebSocket-Protocol": "chat"}
            with raw_client(running, "/room?token=s3cret", headers=headers) as peer:
                peer.frame(TEXT, b"private")
                assert kind.inside.wait(SOON)
                host, port = peer.sock.getsockname()[:2]
                text = running.server.dump()
                kind.go.set()
                peer.close_frame()
                assert peer.read_close() == 1000
        lines = paragraph(text, f"{host}:{port} ").splitlines()
        assert re.fullmatch(
            rf"{host}:{port} /room open for \d+\.\d s, received 1 messages \(13 bytes\), "
            r"sent 0 messages \(0 bytes\), subprotocol chat",
            lines[0],
        )
        assert lines[1].startswith("  in ")
        assert any("in stuck_in_here" in line for line in lines)
        assert text.startswith(f"{type(running.server).__name__} at 127.0.0.1:{running.port}: 1 sockets, 1 of them")
        assert "s3cret" not in text
        assert "private" not in text

    def test_tells_of_requests_too(self, server_class: Any) -> None:
        with stuck(server_class) as running:
            kind = running.server.RequestHandlerClass
            with connected(running) as waiting, connected(running) as answered:
                answered.sendall(b"GET /?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n")
                assert kind.inside.wait(SOON)
                wait_until(lambda: len(running.server.registry) == 2)
                text = running.server.dump()
                kind.go.set()
                names = ["{}:{}".format(*sock.getsockname()) for sock in (waiting, answered)]
        assert "in stuck_in_here" not in paragraph(text, f"{names[0]} waits for a request, for ")
        assert "in stuck_in_here" in paragraph(text, f"{names[1]} a request is being answered, for ")
        assert "s3cret" not in text

    def test_has_idle_connections_of_a_pool_in_no_thread(self) -> None:
        with serving(server_class=OURS[1]) as running, WebSocketClient(running.url()) as client:
            wait_until(lambda: "\n  in no thread" in running.server.dump())
            client.send("m")
            assert client.recv(SOON) == "m"

    def test_has_the_last_round_trip(self, server_class: Any) -> None:
        with serving(server_class=server_class, ping_interval=0.05) as running:
            with WebSocketClient(running.url()) as client:
                receiving = run_in_thread(lambda: list(client))
                wait_until(lambda: re.search(r", round trip \d+\.\d ms\n", running.server.dump()))
                client.start_close()
                receiving.result()

    def test_has_all_other_threads(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running:
            others = running.server.dump().partition("Other threads:\n\n")[2]
        assert "  in MainThread:\n" in others
        assert "in test_has_all_other_threads" in others
        assert "in serve_forever" in others

    def test_waits_for_no_lock(self, server_class: Any) -> None:
        """Somebody may be stuck with any lock of a connection, and a signal handler may have interrupted anything."""
        with serving(server_class=server_class) as running:
            with raw_client(running) as peer:
                wait_until(lambda: running.server.connections)
                [connection] = running.server.connections
                with connection._output.lock, connection._lock:
                    assert " open for " in run_in_thread(running.server.dump).result()
                with running.server.registry._lock:
                    assert " open for " in running.server.dump()
                leave(peer)

    def test_in_a_signal_handler(self) -> None:
        written: list[str] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: written.append(running.server.dump()))
        try:
            with running_server(Quiet, server_class=ThreadingWebSocketServer, events=[], lines=[]) as running:
                with WebSocketClient(running.url()):
                    wait_until(lambda: running.server.connections)
                    signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert " open for " in written[0]

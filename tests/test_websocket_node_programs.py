"""The counterparts of WebSocket-Node's test programs and examples, run as their docstrings say.

Its echo server and its random-number client are in test_examples.py, its Autobahn client in conformance/,
its pages in interop/test_pages.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import ConnectionClosed, HandshakeError, WebSocketClient

from . import stress_client
from .program import ROOT, Program
from .support import SOON, certificates

PROGRAMS = ["fragmentation", "mirror", "whiteboard"]


@contextlib.contextmanager
def program(name: str, *arguments: object) -> Iterator[str]:
    """Yield the URL that the running program prints; afterwards Ctrl-C must have ended it, with exit code 0."""
    with Program("-m", name, *arguments) as running:
        yield running.url()
        running.interrupt()
        exit_code, _, errors = running.wait()
        assert (exit_code, errors) == (0, "")


def lines_of(name: str, *arguments: object) -> list[str]:
    """Run a program to its end and return its lines; it must have ended with exit code 0 and no word of error."""
    with Program("-m", name, *arguments) as running:
        exit_code, output, errors = running.wait()
        assert (exit_code, errors) == (0, "")
        return output.splitlines()


def to_websocket(url: str) -> str:
    return url.replace("http", "ws", 1)


def next_text(websocket: WebSocketClient) -> str:
    return str(websocket.recv(timeout=SOON))


@pytest.mark.parametrize("name", PROGRAMS)
def test_pages_are_small_and_self_contained(name: str) -> None:
    with program(f"examples.{name}.server", *([0] if name == "whiteboard" else ["--port", 0])) as url:
        with urllib.request.urlopen(url, timeout=SOON) as answer:
            page = answer.read()
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(url + "missing", timeout=SOON)
        missing.value.close()
    assert page == (ROOT / "examples" / name / "index.html").read_bytes()
    assert missing.value.code == 404
    assert len(page) < 10_000
    assert re.findall(rb'(?:src|href)="(?!data:)|https?://|@import', page) == []


class TestFragmentation:
    def join(self, url: str, **settings: Any) -> WebSocketClient:
        return WebSocketClient(to_websocket(url), subprotocols=["fragmentation-test"], **settings)

    def test_server_sends_what_is_asked_for_in_fragments(self) -> None:
        with program("examples.fragmentation.server", "--port", 0, "--fragment", 1000) as url:
            with self.join(url, max_frame_size=1000) as websocket:
                for size in (0, 1, 1000, 1001, 100_000):
                    websocket.send(f"sendMessage|{size}")
                    assert len(next_text(websocket)) == size
                    websocket.send(f"sendBinaryMessage|{size}")
                    assert len(websocket.recv(timeout=SOON)) == size

    def test_server_sends_one_frame_without_fragmentation(self) -> None:
        with program("examples.fragmentation.server", "--port", 0, "--no-fragmentation") as url:
            with self.join(url, max_frame_size=99_999) as websocket:
                websocket.send("sendMessage|99999")
                assert len(next_text(websocket)) == 99_999
                websocket.send("sendMessage|100000")
                with pytest.raises(ConnectionClosed, match="1009"):
                    websocket.recv(timeout=SOON)

    @pytest.mark.parametrize("asked", ["sendMessage|", "sendMessage|-1", "sendMessage|999999999", "else"])
    def test_server_refuses_what_it_does_not_understand(self, asked: str) -> None:
        with program("examples.fragmentation.server", "--port", 0) as url:
            with self.join(url) as websocket:
                websocket.send(asked)
                with pytest.raises(ConnectionClosed, match="1008"):
                    websocket.recv(timeout=SOON)

    @pytest.mark.parametrize("options", [(), ("--binary",), ("--fragments",), ("--binary", "--fragments")])
    def test_client_measures_messages(self, options: tuple[str, ...]) -> None:
        with program("examples.fragmentation.server", "--port", 0, "--fragment", 50) as url:
            lines = lines_of("examples.fragmentation.client", "--url", to_websocket(url), "--count", 5, *options)
        assert lines[0].startswith("100 bytes in ")
        assert len(lines) == 5
        for line in lines:
            assert re.fullmatch(r"\d{3,} bytes in \d+ pieces?, [\d,]+ KiB/s", line)


class TestMirror:
    def test_commands_reach_everybody_and_newcomers(self) -> None:
        with program("examples.mirror.server", "--port", 0) as url:

            def join() -> WebSocketClient:
                return WebSocketClient(to_websocket(url), subprotocols=["lws-mirror-protocol"])

            with join() as first, join() as second:
                for websocket in (first, second):
                    websocket.send("d #000000 1 2 3 4;")
                    assert next_text(first) == next_text(second) == "d #000000 1 2 3 4;"
                with join() as third:
                    assert next_text(third) == "d #000000 1 2 3 4;" * 2
                    third.send("clear;")
                    assert next_text(first) == next_text(second) == next_text(third) == "clear;"
                with join() as fourth:
                    first.send("c #ffffff 1 2 3;")
                    assert next_text(fourth) == "c #ffffff 1 2 3;"

    def test_sets_a_cookie(self) -> None:
        with program("examples.mirror.server", "--port", 0) as url:
            with WebSocketClient(to_websocket(url), subprotocols=["lws-mirror-protocol"]) as websocket:
                assert websocket.response is not None
                cookie = websocket.response.headers["Set-Cookie"]
                assert cookie == "TestCookie=CookieValue; Path=/; Max-Age=5000; HttpOnly"

    def test_increment_counts_and_starts_again(self) -> None:
        with program("examples.mirror.server", "--port", 0) as url:
            with WebSocketClient(to_websocket(url), subprotocols=["dumb-increment-protocol"]) as websocket:
                assert [next_text(websocket) for _ in range(4)] == ["0", "1", "2", "3"]
                websocket.send("reset\n")
                while next_text(websocket) != "0":
                    pass
                assert next_text(websocket) == "1"

    def test_other_subprotocols_are_refused(self) -> None:
        with program("examples.mirror.server", "--port", 0) as url:
            with pytest.raises(HandshakeError, match="404"):
                WebSocketClient(to_websocket(url), subprotocols=["other"])

    @pytest.mark.parametrize("version", [13, 8])
    def test_client_of_both_protocols(self, version: int) -> None:
        with program("examples.mirror.server", "--port", 0) as url:
            options = ("--url", to_websocket(url), "--version", version, "--count", 3)
            assert lines_of("examples.mirror.client", *options, "increment") == ["0", "1", "2"]
            assert lines_of("examples.mirror.client", *options, "mirror") == []
            with WebSocketClient(to_websocket(url), subprotocols=["lws-mirror-protocol"]) as websocket:
                assert re.fullmatch(r"(c #[0-9a-f]{6} \d+ \d+ \d+;){3}", next_text(websocket))

    def test_over_tls(self, tmp_path: Path) -> None:
        chain, key, authority = certificates().write(tmp_path)
        pem = tmp_path / "both.pem"
        pem.write_bytes(Path(key).read_bytes() + Path(chain).read_bytes())
        with program("examples.mirror.server", "--port", 0, "--tls", pem) as url:
            assert url.startswith("https:")
            options = ("--url", to_websocket(url), "--trust", authority, "--count", 2)
            assert lines_of("examples.mirror.client", *options, "increment") == ["0", "1"]

    def test_client_says_in_one_line_why_it_cannot_connect(self) -> None:
        with program("examples.mirror.server", "--port", 0) as url:
            with Program("-m", "examples.mirror.client", "--url", to_websocket(url) + "other", "mirror") as running:
                exit_code, _, errors = running.wait()
        assert exit_code == 1
        assert errors == f"{to_websocket(url)}other: the server refused: 404 Not Found\n"


class TestWhiteboard:
    def line(self, **data: Any) -> str:
        return json.dumps({"msg": "drawLine", "data": {"color": "#c0392b", "points": [1, 2, 3.5, 4], **data}})

    def join(self, url: str) -> WebSocketClient:
        return WebSocketClient(to_websocket(url), subprotocols=["whiteboard-example"])

    def test_lines_reach_everybody_and_newcomers_until_cleared(self) -> None:
        with program("examples.whiteboard.server", 0) as url:
            with self.join(url) as first, self.join(url) as second:
                for websocket in (first, second):
                    assert json.loads(next_text(websocket)) == {"msg": "initCommands", "data": []}
                first.send(self.line())
                assert json.loads(next_text(first)) == json.loads(next_text(second)) == json.loads(self.line())
                with self.join(url) as third:
                    drawn = json.loads(next_text(third))
                    assert drawn == {"msg": "initCommands", "data": [json.loads(self.line())]}
                second.send('{"msg": "clear"}')
                assert json.loads(next_text(first)) == {"msg": "clear"}
                with self.join(url) as fourth:
                    assert json.loads(next_text(fourth))["data"] == []

    def test_anything_else_is_ignored(self) -> None:
        with program("examples.whiteboard.server", 0) as url, self.join(url) as websocket:
            next_text(websocket)
            for message in (
                "not JSON",
                "[]",
                "1",
                "{}",
                '{"msg": "drawLine"}',
                '{"msg": "other", "data": {"color": "#c0392b", "points": [1, 2, 3, 4]}}',
                self.line(color="red"),
                self.line(color=None),
                self.line(points=[1, 2, 3]),
                self.line(points=["a", 2, 3, 4]),
                self.line(points=[float("nan"), 2, 3, 4]),
                self.line(points=[1e999, 2, 3, 4]),
                b"\xff\xfe",
            ):
                websocket.send(message)
            websocket.send('{"msg": "clear"}')
            assert json.loads(next_text(websocket)) == {"msg": "clear"}


SIDES = {"plain": (), "tls": ("--tls",), "pool": ("--pool",), "tls-pool": ("--tls", "--pool")}


class TestLeaks:
    @pytest.mark.parametrize("options", [SIDES["plain"], SIDES["tls-pool"]], ids=["plain", "tls-pool"])
    def test_connections_leave_no_thread_and_no_descriptor(self, options: tuple[str, ...]) -> None:
        with program("tests.stress_server", "--port", 0, *options) as url:
            before, after = stress_client.measure(url, 100, 5)
        assert after["connections"] == 1
        # So few connections do not show whether more memory is a leak.
        assert set(stress_client.leaks(before, after, 5)) <= {"memory"}

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("options", SIDES.values(), ids=SIDES.keys())
    def test_twenty_thousand_leave_nothing(self, options: tuple[str, ...]) -> None:
        with program("tests.stress_server", "--port", 0, *options) as url:
            with Program("-m", "tests.stress_client", url) as client:
                output, errors = client.process.communicate(timeout=500)
        assert (client.process.returncode, errors) == (0, b""), output.decode()

"""The socket of a handler: TLS, also where there is none. How its streams end is tested by test_httphandler, too."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time

import pytest

from websocketserver.client import WebSocketClient

from .serving import PAGE, Page, connected, default_server, exchange, lines, pytest_generate_tests, read_to_end, serving
from .support import SOON, certificates, raw_client, wait_until

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there


class TestTls:
    def test_serves_pages_and_sockets(self) -> None:
        with serving(Page, tls=True) as running:
            with connected(running) as raw, certificates().client.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(PAGE.replace(b"Host: x", b"Host: x\r\nConnection: close"))
                assert read_to_end(sock).endswith(b"\r\n\r\n/")
            with raw_client(running) as peer:
                peer.frame(1, b"x")
                assert peer.read_frame().payload == b"x"
                peer.close_frame()
                assert peer.read_close() == 1000

    def test_says_goodbye(self) -> None:
        """A stream that ends without close_notify could have been cut by anybody."""
        with serving(Page, tls=True) as running, connected(running) as raw:
            sock = certificates().client.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
            with sock:
                sock.sendall(PAGE.replace(b"Host: x", b"Host: x\r\nConnection: close"))
                assert read_to_end(sock).endswith(b"\r\n\r\n/")

    @pytest.mark.parametrize("sent", [PAGE, b"\x80\x01\x02 what is this?"], ids=["http", "junk"])
    def test_other_input_costs_one_line(self, sent: bytes) -> None:
        with serving(Page, tls=True) as running:
            with contextlib.suppress(OSError):
                exchange(running, sent)
            wait_until(lambda: lines(running))
            assert running.errors == []
        assert len(lines(running)) == 1
        assert "TLS handshake failed: " in lines(running)[0]
        assert ("plain HTTP" in lines(running)[0]) == (sent is PAGE)

    def test_a_client_that_leaves_costs_one_line(self) -> None:
        with serving(Page, tls=True) as running:
            with connected(running) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for sent in (b"", b"\x16\x03\x01"):
                with contextlib.suppress(OSError):
                    exchange(running, sent)
            wait_until(lambda: len(lines(running)) >= 2)
            assert running.errors == []
        assert len(lines(running)) <= 3

    def test_a_client_that_does_not_trust_us_costs_one_line(self) -> None:
        with serving(Page, tls=True) as running, connected(running) as sock:
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
            wait_until(lambda: lines(running))
        assert len(lines(running)) == 1

    def test_the_deadline_covers_handshake_and_head(self) -> None:
        with serving(Page, tls=True, handshake_timeout=0.3) as running:
            with connected(running) as raw:
                assert raw.recv(1) == b""  # silent before the handshake
            began = time.monotonic()
            with connected(running) as raw, contextlib.suppress(ConnectionError, ssl.SSLError):  # if it takes too long
                with certificates().client.wrap_socket(raw, server_hostname="localhost") as sock:
                    assert sock.recv(1) == b""  # silent behind it
            assert 0.1 < time.monotonic() - began < SOON

    def test_silent_clients_hold_up_nobody(self) -> None:
        with serving(Page, tls=True) as running, contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connected(running))
            with raw_client(running) as peer:
                peer.frame(1, b"x")
                assert peer.read_frame().payload == b"x"


class TestTlsWhereThereIsNone:
    def test_is_answered_at_once_with_400(self) -> None:
        """It may hold no end of a line, and the client waits for an answer."""
        with serving(Page, handshake_timeout=60, minimum_rate=None) as running, connected(running) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")
        assert lines(running) == ['"" 400 this port does not speak TLS: use http:// or ws://']

    def test_is_an_error_of_tls_to_the_client(self) -> None:
        with serving(Page) as running:
            with pytest.raises(ssl.SSLError):
                WebSocketClient(f"wss://localhost:{running.port}/", ssl_context=certificates().client)
            wait_until(lambda: not len(running.server.registry))
        assert len(lines(running)) == 1

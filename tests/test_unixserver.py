"""Servers on a Unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from websocketserver.unixserver import ThreadingUnixWebSocketServer, UnixWebSocketServer

from .serving import Quiet, events, leave, serving
from .support import raw_client


@pytest.fixture(params=[ThreadingUnixWebSocketServer, UnixWebSocketServer], ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_it_serves(server_class: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with serving(server_class=server_class, address=path) as running:
        assert running.server.server_address == path
        assert (running.server.server_name, running.server.server_port) == (path, 0)
        with raw_client(running) as peer:
            peer.frame(1, b"x")
            assert peer.read_frame().payload == b"x"
            leave(peer)
            assert peer.read_close() == 1000
    assert events(running) == ["open", "x", (1000, "")]


def test_its_socket_is_removed_at_the_end(server_class: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with server_class(str(path), Quiet):
        assert path.is_socket()
    assert not path.exists()


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    with UnixWebSocketServer(path, Quiet):
        pass


def test_anything_else_at_the_path_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with UnixWebSocketServer(str(path), Quiet):
        with pytest.raises(OSError, match="in use"):
            UnixWebSocketServer(str(path), Quiet)
        assert path.is_socket()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        UnixWebSocketServer(str(path), Quiet)
    assert path.read_text() == "precious"


def test_nothing_is_replaced_if_that_is_not_wanted(tmp_path: Path) -> None:
    class Server(UnixWebSocketServer):
        allow_reuse_address = False

    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(OSError, match="in use"):
        Server(path, Quiet)


@pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="no abstract namespace")
def test_a_name_without_a_file(tmp_path: Path) -> None:
    name = "\0websocketserver-" + tmp_path.name + str(os.getpid())
    with UnixWebSocketServer(name, Quiet) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(name)
        assert server.server_name == name

"""Restarts under load: processes follow each other, and clients lose their connections and nothing else."""

from __future__ import annotations

import contextlib
import signal
import socket
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import ConnectionClosed, WebSocketClient

from .program import Program
from .support import SOON, run_in_thread, wait_until

pytestmark = pytest.mark.slow

SERVER = textwrap.dedent("""
    import os, signal, sys
    from websocketserver import *

    class Echo(WebSocketRequestHandler):
        def on_open(self):
            self.websocket.send(str(os.getpid()))
        def on_message(self, message):
            self.websocket.send(message)
        def log_message(self, *args):
            pass

    class Server({kind}):
        allow_reuse_port = {reuse_port}

    {address}
    with Server(address, Echo) as server:
        print("serving", server.server_port, flush=True)
        report = server.run(15, 1012, drain=1.5)  # enough for whoever has just come to a busy machine
    print(len(report.cut), len(report.running), len(report.closed) > 0)
""")
INHERITED = """
os.dup2({fileno}, 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
[address] = inherited_sockets()
"""


class Load:
    """Clients that send one message after the other; half of them stay, half come anew after three messages.

    All come again as soon as they are closed.
    """

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.over = threading.Event()
        self.servers: set[str] = set()  # process identifiers of those that have answered
        self.connections = 0
        self.answers = 0
        self.faults: list[Any] = []
        self.codes: set[int] = set()
        self._lock = threading.Lock()
        self.handles = [run_in_thread(self._run, 3 if number % 2 else None) for number in range(clients)]

    def _run(self, most: int | None) -> None:
        while not self.over.is_set():
            try:
                websocket = WebSocketClient(f"ws://127.0.0.1:{self.port}/", ping_interval=None, compression=None)
            except Exception as error:  # no attempt may fail
                self.faults.append(error)
                return
            with websocket, contextlib.suppress(ConnectionClosed):
                self._talk(websocket, most)
            with self._lock:
                self.connections += 1
                if not self.over.is_set():
                    self.codes.add(websocket.close_code or 0)

    def _talk(self, websocket: WebSocketClient, most: int | None) -> None:
        self.servers.add(str(websocket.recv(SOON)))
        number = 0
        while not self.over.is_set() and number != most:
            websocket.send(str(number))
            if websocket.recv(SOON) != str(number):
                self.faults.append(("answered wrongly", number))
            number += 1
            with self._lock:
                self.answers += 1
            self.over.wait(0.002)  # leave some of the machine to those that restart

    def end(self) -> None:
        self.over.set()
        for handle in self.handles:
            handle.result(2 * SOON)


@contextlib.contextmanager
def serving(**parts: Any) -> Iterator[tuple[Program, int]]:
    """Yield a server's process, once it serves, and its port."""
    with Program("-c", SERVER.format(**parts), pass_fds=parts.get("pass_fds", ())) as program:
        yield program, int(program.line().split()[1])


def restart_under_load(port: int, first: Program, next_one: Any) -> None:
    load = Load(port, 8)
    try:
        before = first
        with contextlib.ExitStack() as stack:
            for count in (2, 3):
                wait_until(lambda count=count: len(load.servers) == count - 1 or load.faults)
                after, _ = stack.enter_context(next_one())
                before.process.send_signal(signal.SIGTERM)
                wait_until(lambda count=count: len(load.servers) >= count or load.faults)
                assert load.faults == []
                assert before.wait() == (0, "0 0 True\n", "")
                before = after
            load.end()
            before.process.send_signal(signal.SIGTERM)
            assert before.wait()[0] == 0
    finally:
        load.over.set()
    print(f"{load.connections} connections, {load.answers} answers, {len(load.servers)} processes, codes {load.codes}")
    assert load.faults == []
    assert len(load.servers) == 3
    assert load.codes == {1000, 1012}


@pytest.mark.parametrize("kind", ["ThreadingWebSocketServer", "PoolingWebSocketServer"])
def test_with_one_listening_socket_for_all(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        fileno = listener.fileno()
        address = textwrap.dedent(INHERITED).format(fileno=fileno)
        parts = {"kind": kind, "reuse_port": False, "address": address, "pass_fds": [fileno]}
        with serving(**parts) as (first, port):
            restart_under_load(port, first, lambda: serving(**parts))


@pytest.mark.parametrize("kind", ["ThreadingWebSocketServer", "PoolingWebSocketServer"])
def test_with_a_port_that_all_listen_on(kind: str) -> None:
    parts: dict[str, Any] = {"kind": kind, "reuse_port": True}
    with serving(**parts, address='address = ("127.0.0.1", 0)') as (first, port):
        restart_under_load(port, first, lambda: serving(**parts, address=f'address = ("127.0.0.1", {port})'))

"""The end of the interpreter: prompt, with the right exit code and nothing on standard error, whatever goes on."""

from __future__ import annotations

import sys
import time

import pytest

from .program import run_program
from .support import sampled

SERVERS = ["ThreadingWebSocketServer", "WebSocketServer", "PoolingWebSocketServer"]

PROGRAM = """
    import atexit, contextlib, os, signal, socket, sys, threading, time
    from tests.support import wait_until
    from websocketserver import *

    class Echo(WebSocketRequestHandler):
        ping_interval = 0.01
        def on_message(self, message):
            self.websocket.send(message)
        def log_message(self, *args):
            pass

    def in_thread(function, *arguments, daemon=True):
        thread = threading.Thread(target=function, args=arguments, daemon=daemon)
        thread.start()
        return thread

    def connect(server):
        return WebSocketClient(f"ws://127.0.0.1:{server.server_port}/", ping_interval=0.01, max_message_size=None)

    def talk(websocket):
        with contextlib.suppress(ConnectionClosed):
            while True:
                websocket.send("x" * 1000)
                websocket.recv()
"""

ENDINGS = {"end": (0, ""), "sys.exit(3)": (3, ""), "sys.exit('bad')": (1, "bad\n")}


@pytest.mark.parametrize("ending, kind", sampled([*ENDINGS], SERVERS))
def test_in_the_middle_of_everything(kind: str, ending: str) -> None:
    """Servers, clients and their threads are at work, and the timer sends a Ping every few milliseconds."""
    done = run_program(f"""{PROGRAM}
    server = {kind}(("127.0.0.1", 0), Echo)
    in_thread(server.serve_forever)
    count = 1 if {kind} is WebSocketServer else 6
    clients = [connect(server) for _ in range(count)]
    for websocket in clients[::2]:
        in_thread(talk, websocket)  # in the middle of sending and receiving
    for websocket in clients[1::2]:
        in_thread(list, websocket)  # blocked in recv
    wait_until(lambda: all(websocket.latency is not None for websocket in clients))
    end = None
    print(time.monotonic())
    {ending}
    """)
    code, errors = ENDINGS[ending]
    assert (done.returncode, done.stderr) == (code, errors)
    assert time.monotonic() - float(done.stdout) < 10


@pytest.mark.parametrize("kind", SERVERS)
def test_with_handlers_that_are_busy_or_stuck(kind: str) -> None:
    done = run_program(f"""{PROGRAM}
    class Handler(Echo):
        def on_message(self, message):
            entered.set()
            while message == "busy":
                sum(range(100))
            if message == "talk":
                self.websocket.send(bytes(100_000_000))  # which nobody reads
            threading.Event().wait()

    entered = threading.Event()
    server = {kind}(("127.0.0.1", 0), Handler)
    in_thread(server.serve_forever)
    clients = [connect(server) for _ in range(1 if {kind} is WebSocketServer else 3)]
    for websocket, message in zip(clients, ("talk", "stuck", "busy")):
        websocket.send(message)
        entered.wait()
        entered.clear()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", SERVERS)
def test_of_the_main_thread_does_not_end_a_server(kind: str) -> None:
    """Where the serving thread is no daemon, the process serves on, new clients too, until it is shut down."""
    done = run_program(f"""{PROGRAM}
    class Handler(Echo):
        def on_message(self, message):
            super().on_message(message)
            if message == "stop":
                self.server.shutdown(5)

    def later():
        threading.main_thread().join()
        try:
            for message in ("go on", "stop"):
                with connect(server) as websocket:
                    websocket.send(message)
                    print(websocket.recv(10))
        except HandshakeError as error:
            print(error.status)
            server.shutdown()

    server = {kind}(("127.0.0.1", 0), Handler)
    server.log_message = lambda *args: None
    in_thread(server.serve_forever, daemon=False)
    wait_until(lambda: threading.active_count() >= (4 if {kind} is PoolingWebSocketServer else 2))
    in_thread(later, daemon=False)
    """)
    # These two give no thread to anybody once the main thread has ended (python/cpython#113964).
    no_threads = sys.version_info[:3] in ((3, 12, 0), (3, 12, 1)) and kind == "ThreadingWebSocketServer"
    assert (done.returncode, done.stdout, done.stderr) == (0, "503\n" if no_threads else "go on\nstop\n", "")


@pytest.mark.parametrize("kind", SERVERS)
def test_may_shut_down_a_server(kind: str) -> None:
    done = run_program(f"""{PROGRAM}
    def end():
        report = server.shutdown(5)
        server.server_close()
        thread.join()
        print(len(report.closed), report.cut, report.running, websocket.close_code)

    server = {kind}(("127.0.0.1", 0), Echo)
    in_thread(server.serve_forever)
    websocket = connect(server)
    thread = in_thread(list, websocket)
    atexit.register(end)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 () () 1001\n", "")


def test_with_messages_in_pieces_half_way() -> None:
    """Their generators and streams are finalised when half of the interpreter has gone."""
    done = run_program(f"""{PROGRAM}
    def pieces():
        yield "one"
        sent.set()
        threading.Event().wait()

    class Handler(Echo):
        def on_open(self):
            self.websocket.send_fragments(pieces())

    sent = threading.Event()
    server = ThreadingWebSocketServer(("127.0.0.1", 0), Handler)
    in_thread(server.serve_forever)
    websocket = connect(server)
    stream = websocket.recv_fragments()
    print(next(iter(stream)))
    iterator = iter(websocket)
    events = websocket.events()
    sent.wait()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "")


def test_by_a_signal_that_nobody_handles() -> None:
    done = run_program(f"""{PROGRAM}
    server = ThreadingWebSocketServer(("127.0.0.1", 0), Echo)
    in_thread(server.serve_forever)
    websocket = connect(server)
    in_thread(talk, websocket)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(10)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (-15, "", "")


def test_by_ctrl_c() -> None:
    done = run_program(f"""{PROGRAM}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = ThreadingWebSocketServer(("127.0.0.1", 0), Echo)
    in_thread(server.serve_forever)
    websocket = connect(server)
    in_thread(talk, websocket)
    other = connect(server)
    main = threading.get_ident()
    def press():
        wait_until(lambda: other._pumping)
        signal.pthread_kill(main, signal.SIGINT)
    in_thread(press)
    other.recv()
    """)
    assert done.returncode == -2
    assert done.stdout == ""
    assert done.stderr.endswith("\nKeyboardInterrupt\n")
    assert done.stderr.count("Traceback") == 1

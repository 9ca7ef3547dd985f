"""Forks: the child of a process that serves, talks and waits can do the same, and disturbs nothing of the parent's.

In programs of their own: a fork of the tests would have all the tests' threads.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from .program import run_program
from .protocol.twins import HAVE_C

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PARENT = """
    import contextlib, os, socket, socketserver, sys, threading, time, warnings
    from tests.support import certificates, wait_until
    from websocketserver import *

    warnings.simplefilter("ignore", DeprecationWarning)  # CPython's about forks of processes with threads

    class Echo(WebSocketRequestHandler):
        def on_message(self, message):
            self.websocket.send(message)
        def log_message(self, *args):
            pass

    @contextlib.contextmanager
    def serving(kind=ThreadingWebSocketServer, handler=Echo):
        with kind(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            wait_until(lambda: server._serving is not None)
            yield server

    def connect(server, **options):
        return WebSocketClient(f"ws://127.0.0.1:{server.server_port}/", **options)

    def echo(websocket):
        websocket.send("x")
        return websocket.recv(10)

    def in_thread(function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def forked(function):
        '''Run the function in a child; return its exit status.'''
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = 1
        try:
            import faulthandler
            faulthandler.dump_traceback_later(15, exit=True)
            function()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
"""

SERVERS = ["ThreadingWebSocketServer", "WebSocketServer", "PoolingWebSocketServer"]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_child_serves_and_connects_and_the_parent_goes_on(kind: str) -> None:
    """While threads of the parent wait in recv, are stuck in send, and hold every lock there is."""
    done = run_program(f"""{PARENT}
    enough = threading.Event()

    class Silent(Echo):
        def handle_websocket(self):
            enough.wait()  # never reads: whoever sends to it gets stuck

    def child():
        with serving({kind}) as own, connect(own, ping_interval=0.05) as websocket:
            assert echo(websocket) == "x"
            websocket.ping().wait(10)
            wait_until(lambda: websocket.latency is not None)
        for websocket in (*clients, stuck):
            with contextlib.suppress(ConnectionClosed):
                websocket.send("x")
                raise AssertionError("sent")
            websocket.close()

    def send():
        with contextlib.suppress(ConnectionClosed):
            stuck.send(bytes(50_000_000))

    with contextlib.ExitStack() as stack:
        server, pool, third, silent = (
            stack.enter_context(serving(*arguments))
            for arguments in ((), (PoolingWebSocketServer,), ({kind},), (ThreadingWebSocketServer, Silent))
        )
        clients = [connect(server) for _ in range(3)] + [connect(pool) for _ in range(3)] + [connect(third)]
        assert [echo(websocket) for websocket in clients] == ["x"] * len(clients)
        waiting = [in_thread(list, connect(server)), in_thread(list, connect(pool))]
        stuck = connect(silent)
        in_thread(send)
        wait_until(stuck._output.lock.locked)
        from websocketserver.keepalive import timer
        held = threading.Event()

        def hold():
            with contextlib.ExitStack() as stack:
                for lock in (timer._changed, clients[0]._lock, clients[3]._lock, server.registry._changed,
                        pool.registry._changed, pool._pool._lock, pool._pool._waker._lock, server._waker._lock,
                        server._handlers._lock):
                    stack.enter_context(lock)
                held.set()
                go.wait()

        go = threading.Event()
        holding = in_thread(hold)
        held.wait()
        status = forked(child)
        go.set()
        holding.join()
        print("child", status)
        print([echo(websocket) for websocket in clients] == ["x"] * len(clients))
        for websocket in clients:
            websocket.close()
            print(websocket.close_code, end=" ")
        stuck.abort()
        enough.set()
        for each in (server, pool, third, silent):
            each.shutdown(3)
    """)
    assert done.stdout == "child 0\nTrue\n" + "1000 " * 7, done
    assert done.stderr == ""


def test_a_child_keeps_nothing_open_of_the_parent() -> None:
    """Else peers would see no end before the child's, and the port would stay taken."""
    done = run_program(f"""{PARENT}
    def sockets():
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink("/proc/self/fd/" + name)
                if target.startswith("socket") or "eventpoll" in target:
                    found.append(target)
        return found

    class Page(Echo):
        def do_GET(self):
            asked.set()
            go.wait()

    def child():
        assert sockets() == [], sockets()
        for websocket in clients + server.connections + pool.connections:
            try:
                websocket.recv()
            except ConnectionClosed as closed:
                assert "stayed with the parent" in str(closed), closed
            try:
                websocket.send("x")
            except ConnectionClosed as closed:
                assert "stayed with the parent" in str(closed), closed
            websocket.close()
            websocket.abort()
        for each in (server, pool, secure):
            began = time.monotonic()
            each.shutdown()
            each.server_close()
            assert time.monotonic() - began < 9  # shutdown_timeout is 10

    def secure_server(*arguments):
        return ThreadingWebSocketServer(*arguments, ssl_context=certificates().server)

    asked, go = threading.Event(), threading.Event()
    with serving(handler=Page) as server, serving(PoolingWebSocketServer) as pool, serving(secure_server) as secure:
        clients = [connect(each, compression=None) for each in (server, pool) for _ in range(3)]
        url = f"wss://localhost:{{secure.server_port}}/"
        clients.append(WebSocketClient(url, ssl_context=certificates().client))
        for websocket in clients:
            assert echo(websocket) == "x"
        asking = socket.create_connection(server.server_address)
        asking.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        asked.wait()
        half = [socket.create_connection(each.server_address) for each in (server, pool)]
        wait_until(lambda: len(server.registry) >= 5 and len(pool.registry) >= 4)
        mine = [asking.detach()] + [sock.detach() for sock in half]
        for fileno in mine:  # the test's own: not ours to leave
            os.set_inheritable(fileno, False)
        os.register_at_fork(after_in_child=lambda: [os.close(fileno) for fileno in mine])
        print("child", forked(child))
        go.set()
        print([echo(websocket) for websocket in clients].count("x"))
        for websocket in clients:
            websocket.close()
    """)
    assert done.stdout == "child 0\n7\n", done
    assert done.stderr == ""


def test_while_a_thread_comes_from_a_read() -> None:
    """In C it takes the GIL back by a gate: the child has one of its own."""
    done = run_program(f"""{PARENT}
    import ctypes

    def child():
        sys.setswitchinterval(0.005)
        with serving() as server, connect(server) as websocket:
            assert echo(websocket) == "x"

    libc = ctypes.PyDLL(None)  # its functions keep the GIL
    here, there = socket.socketpair()
    connection = WebSocketConnection(here, role=Role.CLIENT)
    receiving = in_thread(connection.recv)
    wait_until(lambda: connection._pumping)
    sys.setswitchinterval(60)
    libc.send(there.fileno(), b"\\x81\\x01x", 3, 0)
    while libc.recv(here.fileno(), bytes(1), 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) > 0:
        pass
    status = forked(child)
    sys.setswitchinterval(0.005)
    receiving.join()
    connection.abort()
    print("child", status)
    """)
    assert done.stdout == "child 0\n", done


def test_with_multiprocessing() -> None:
    done = run_program(f"""{PARENT}
    import multiprocessing

    def child(queue):
        with serving() as own, connect(own) as websocket:
            queue.put(echo(websocket))

    with serving() as server, connect(server) as websocket:
        assert echo(websocket) == "x"
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get())
        process.join(20)
        print(process.exitcode, echo(websocket))
    """)
    assert done.stdout == "x\n0 x\n", done
    assert done.stderr == ""


@pytest.mark.parametrize("kind", SERVERS)
def test_before_serving_each_child_may_serve(kind: str) -> None:
    """One listening socket, several processes: each has a waker of its own, and none removes what is the parent's."""
    done = run_program(f"""{PARENT}
    import signal

    class Pid(Echo):
        def on_open(self):
            self.websocket.send(str(os.getpid()))

    with {kind}(("127.0.0.1", 0), Pid) as server:
        children = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    report = server.run(5, 1012)
                    status = 0 if len(report.closed) + len(report.cut) <= 100 else 2
                finally:
                    os._exit(status)
            children.append(pid)
        seen = set()
        deadline = time.monotonic() + 15
        while len(seen) < 3 and time.monotonic() < deadline:
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    websocket = stack.enter_context(connect(server))
                    seen.add(int(websocket.recv(10)))
        print(seen == set(children))
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
    """)
    assert done.stdout == "True\n[0, 0, 0]\n", done


def test_of_a_unix_server_leaves_the_path_to_the_parent(tmp_path: Any) -> None:
    done = run_program(f"""{PARENT}
    path = {str(tmp_path / "socket")!r}

    def child():
        with server:
            pass

    with ThreadingUnixWebSocketServer(path, Echo) as server:
        print(forked(child), os.path.exists(path))
        in_thread(server.serve_forever)
        wait_until(lambda: server._serving is not None)
        print(forked(child), os.path.exists(path))
    print(os.path.exists(path))
    """)
    assert done.stdout == "0 True\n0 True\nFalse\n", done
    assert done.stderr == ""


def test_by_the_servers_of_the_standard_library() -> None:
    """ForkingMixIn: a process for each connection."""
    done = run_program(f"""{PARENT}
    class Forking(socketserver.ForkingMixIn, WebSocketServer):
        block_on_close = True

    with serving(Forking) as server:
        for _ in range(3):
            with connect(server) as websocket:
                assert echo(websocket) == "x"
        websockets = [connect(server) for _ in range(3)]
        print([echo(websocket) for websocket in websockets])
        for websocket in websockets:
            websocket.close()
            print(websocket.close_code)
        print(len(server.registry))
    """)
    assert done.stdout == "['x', 'x', 'x']\n1000\n1000\n1000\n0\n", done
    assert done.stderr == ""


def test_in_a_hook() -> None:
    """The connection stays with the parent, and a request that is being answered belongs to both, as ever."""
    done = run_program(f"""{PARENT}
    class Handler(Echo):
        def on_message(self, message):
            status = forked(self.child)
            self.websocket.send(f"child {{status}}")

        def child(self):
            try:
                self.websocket.send("from the child")
            except ConnectionClosed:
                return
            raise AssertionError("sent")

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            forked(lambda: self.wfile.write(b"from the child"))
            self.wfile.write(b", from the parent")

    for kind in (ThreadingWebSocketServer, PoolingWebSocketServer, WebSocketServer):
        with serving(kind, Handler) as server:
            with connect(server) as websocket:
                print(echo(websocket))
            with socket.create_connection(server.server_address) as sock:
                sock.sendall(b"GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n")
                print(sock.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2])
    """)
    assert done.stdout == "child 0\nb'from the child, from the parent'\n" * 3, done
    assert done.stderr == ""


def test_the_thread_that_forks_is_the_childs_main_one() -> None:
    """It wakes up for a signal that another thread was sent while it waits in recv."""
    # CPython 3.13 itself does not notice signals in such a child, a loop of Python neither; C asks it to.
    notices = sys.version_info[:2] != (3, 13) or HAVE_C
    done = run_program(f"""{PARENT}
    import signal
    from websocketserver.deadline import in_main_thread

    def child():
        assert in_main_thread()
        with serving() as server, connect(server) as websocket:
            assert echo(websocket) == "x"
            if not {notices}:
                return
            in_thread(lambda: (wait_until(lambda: websocket._pumping),
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)))
            with contextlib.suppress(KeyboardInterrupt):
                websocket.recv()
                raise AssertionError("received")

    with serving() as server, connect(server) as websocket:
        assert echo(websocket) == "x"
        statuses = []
        in_thread(lambda: statuses.append(forked(child))).join(20)
        print(statuses)
    """)
    assert done.stdout == "[0]\n", done.stderr

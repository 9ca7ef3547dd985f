"""The end of a server: its phases, what it reports, and signals."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver.pooling import PoolingWebSocketServer
from websocketserver.server import ThreadingWebSocketServer, WebSocketServer

from .program import run_program
from .serving import PAGE, Quiet, Slow, connected, echo, events, leave, lines, read_to_end, serving
from .support import SOON, RawPeer, opening_request, raw_client, run_in_thread, wait_until
from .test_server import BOTH, TEXT

ALL = [*BOTH, PoolingWebSocketServer]


@pytest.fixture(params=BOTH, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestShutdown:
    """It can be asked for from everywhere, at any time, and ends within its deadline."""

    def test_closes_all_with_1001(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            peer.read_frame()
            handle = run_in_thread(running.server.shutdown)
            assert peer.read_close() == 1001
            leave(peer, 1001)
            handle.result()
            assert len(running.server.registry) == 0
            assert events(running) == ["open", "x", (1001, "")]

    def test_has_a_code_and_a_reason(self) -> None:
        with serving() as running, raw_client(running) as peer:
            handle = run_in_thread(running.server.shutdown, 5, 4000, "later")
            assert peer.read_frame().payload == (4000).to_bytes(2, "big") + b"later"
            leave(peer, 4000)
            handle.result()

    def test_of_a_code_that_may_not_be_sent_does_nothing(self) -> None:
        with serving() as running:
            with pytest.raises(ValueError, match="1006"):
                running.server.shutdown(code=1006)
            with pytest.raises(ValueError, match="reason"):
                running.server.shutdown(reason="x" * 200)
            assert echo(running) == b"x"

    @pytest.mark.parametrize("timeout", [0, 0.3])
    def test_cuts_who_does_not_answer_within_its_timeout(self, server_class: Any, timeout: float) -> None:
        with serving(server_class=server_class, close_timeout=60) as running, raw_client(running) as peer:
            running.server.shutdown_timeout = 60
            peer.frame(TEXT, b"x")
            peer.read_frame()
            run_in_thread(running.server.shutdown, timeout).result()
            wait_until(lambda: len(running.server.registry) == 0)
            peer.read_to_end()
        assert events(running)[-1][0] == 1006

    def test_waits_for_an_answer_that_is_under_way(self, server_class: Any) -> None:
        go = threading.Event()
        with serving(Slow, server_class=server_class, go=go) as running, connected(running) as sock:
            sock.sendall(PAGE)
            wait_until(lambda: events(running))
            handle = run_in_thread(running.server.shutdown)
            wait_until(lambda: running.server.registry._closing)
            assert handle.running
            go.set()
            assert read_to_end(sock).endswith(b"at last")
            handle.result()

    def test_cuts_an_answer_that_takes_too_long(self, server_class: Any) -> None:
        go = threading.Event()
        with serving(Slow, server_class=server_class, go=go) as running, connected(running) as sock:
            sock.sendall(PAGE)
            wait_until(lambda: events(running))
            running.server.shutdown(0.1)
            assert read_to_end(sock, cut=True) == b""
            go.set()

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_cuts_half_open_handshakes_at_once(self, tls: bool) -> None:
        with serving(tls=tls, handshake_timeout=60) as running, contextlib.ExitStack() as stack:
            for _ in range(5):
                sock = stack.enter_context(connected(running))
                sock.sendall(b"\x16\x03\x01" if tls else b"GET / HTTP/1.1\r\nHo")
            wait_until(lambda: len(running.server.registry) == 5)
            run_in_thread(running.server.shutdown, 60).result()
            assert len(running.server.registry) == 0

    def test_cuts_connections_that_are_kept_alive_at_once(self) -> None:
        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()

        with serving(Handler) as running, connected(running) as sock:
            sock.sendall(PAGE)
            assert b"204" in sock.recv(4096)
            run_in_thread(running.server.shutdown, 60).result()
            assert read_to_end(sock, cut=True) == b""

    def test_from_a_handler(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.server.shutdown()
                self.events.append("returned")

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"stop")
            assert peer.read_close() == 1001
            leave(peer, 1001)
            assert running.server._stopped.wait(SOON)
        assert events(running) == ["open", "returned", (1001, "")]

    def test_from_two_handlers_at_once_while_a_third_has_to_be_closed(self) -> None:
        both = threading.Barrier(2)

        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                both.wait(SOON)
                self.server.shutdown()
                self.events.append("returned")

        with serving(Handler, close_timeout=60) as running, contextlib.ExitStack() as stack:
            running.server.shutdown_timeout = 60
            peers = [stack.enter_context(raw_client(running)) for _ in range(3)]
            for peer in peers[:2]:
                peer.frame(TEXT, b"stop")
            for peer in peers:
                assert peer.read_close() == 1001
                leave(peer, 1001)
            assert running.server._stopped.wait(SOON)
            wait_until(lambda: len(running.server.registry) == 0)
        assert events(running).count("returned") == 2

    def test_from_the_method_of_a_request(self, server_class: Any) -> None:
        class Handler(Quiet):
            def do_POST(self) -> None:
                self.server.shutdown()
                self.send_response(HTTPStatus.OK)
                self.end_headers()
                self.wfile.write(b"stopped")

        with serving(Handler, server_class=server_class) as running, connected(running) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert read_to_end(sock).endswith(b"stopped")
            assert running.server._stopped.wait(SOON)

    def test_from_the_serving_thread(self, server_class: Any) -> None:
        class Server(server_class):  # type: ignore[misc]
            def service_actions(self) -> None:
                if self.connections:
                    self.shutdown()

        with serving(server_class=Server) as running:
            if server_class is WebSocketServer:
                running.server.shutdown()  # its handler is in the serving thread: nothing runs beside it
                return
            with raw_client(running) as peer:
                assert peer.read_close() == 1001
                leave(peer, 1001)
                assert running.server._stopped.wait(SOON)

    @pytest.mark.parametrize("kind", ["ThreadingWebSocketServer", "WebSocketServer"])
    def test_from_a_signal_handler_of_the_serving_thread(self, kind: str) -> None:
        done = run_program(f"""
            import os, signal, threading, time
            from websocketserver import {kind}, WebSocketClient, WebSocketRequestHandler

            def say(line):
                print(line + "\\n", end="")  # two threads say something: each line in one piece

            class Handler(WebSocketRequestHandler):
                def on_open(self):
                    self.websocket.send("open")
                def on_close(self, code, reason):
                    say(f"on_close {{code}}")
                def log_message(self, *args):
                    pass

            def client():
                with WebSocketClient(f"ws://127.0.0.1:{{server.server_port}}/") as websocket:
                    websocket.recv()
                    os.kill(os.getpid(), signal.SIGTERM)
                    say(f"messages {{list(websocket)}} {{websocket.close_code}}")

            signal.signal(signal.SIGTERM, lambda *args: server.shutdown())
            with {kind}(("127.0.0.1", 0), Handler) as server:
                server.shutdown_timeout = 60
                thread = threading.Thread(target=client)
                thread.start()
                began = time.monotonic()
                server.serve_forever()
                thread.join()
                print("in time", time.monotonic() - began < 30)
        """)
        assert sorted(done.stdout.splitlines()) == ["in time True", "messages [] 1001", "on_close 1001"], done
        assert done.returncode == 0

    def test_from_a_signal_handler_of_another_thread(self) -> None:
        done = run_program("""
            import os, signal, threading, time
            from websocketserver import ThreadingWebSocketServer, WebSocketClient, WebSocketRequestHandler

            class Handler(WebSocketRequestHandler):
                def log_message(self, *args):
                    pass

            signal.signal(signal.SIGTERM, lambda *args: server.shutdown())
            with ThreadingWebSocketServer(("127.0.0.1", 0), Handler) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                websocket = WebSocketClient(f"ws://127.0.0.1:{server.server_port}/")

                def client():
                    with websocket:
                        print(list(websocket), websocket.close_code)

                waiting = threading.Thread(target=client)
                waiting.start()
                os.kill(os.getpid(), signal.SIGTERM)
                thread.join(30)
                print(thread.is_alive())
                waiting.join()
        """)
        assert sorted(done.stdout.splitlines()) == ["False", "[] 1001"], done

    def test_before_serving_is_remembered(self, server_class: Any) -> None:
        with server_class(("127.0.0.1", 0), Quiet) as server:
            server.shutdown()
            run_in_thread(server.serve_forever).result()

    def test_twice_and_after_the_end(self, server_class: Any) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        with server_class(("127.0.0.1", 0), Handler) as server:
            handle = run_in_thread(server.serve_forever)
            handles = [run_in_thread(server.shutdown) for _ in range(3)]
            for each in (handle, *handles):
                each.result()
            server.shutdown()
        server.shutdown()
        server.server_close()

    def test_may_be_followed_by_serving_again(self, server_class: Any) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        with server_class(("127.0.0.1", 0), Handler) as server:
            for _ in range(2):
                handle = run_in_thread(server.serve_forever)
                with socket.create_connection(server.server_address, SOON) as sock:
                    sock.sendall(PAGE)
                    assert read_to_end(sock).startswith(b"HTTP/1.1 426")
                server.shutdown()
                handle.result()

    def test_is_not_held_up_by_a_handler_that_does_not_end(self) -> None:
        go = threading.Event()

        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.events.append("stuck")
                go.wait(60)

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            wait_until(lambda: "stuck" in events(running))
            running.server.shutdown_timeout = 60
            began = time.monotonic()
            run_in_thread(running.server.shutdown, 0.3).result()
            assert time.monotonic() - began > 0.2
            go.set()
            peer.read_to_end()
            wait_until(lambda: len(running.server.registry) == 0)
        assert isinstance(events(running)[-1], tuple)


class TestServerClose:
    def test_ends_all_that_serve_forever_began(self, server_class: Any) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        server = server_class(("127.0.0.1", 0), Handler)
        handle = run_in_thread(server.serve_forever)
        with socket.create_connection(server.server_address, SOON) as sock:
            sock.sendall(opening_request())
            assert b"101" in sock.recv(4096)
            wait_until(lambda: server.connections)
            closing = run_in_thread(server.server_close)
            with RawPeer(sock, masks=True) as peer:
                assert peer.read_close() == 1001
                leave(peer, 1001)
                closing.result()
                handle.result()
        assert server.socket.fileno() == -1
        assert [thread for thread in threading.enumerate() if "process_request" in thread.name] == []

    def test_gives_the_port_back_where_ctrl_c_ends_it(self, server_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*args: Any, **options: Any) -> bool:
            raise KeyboardInterrupt

        server = server_class(("127.0.0.1", 0), Quiet)
        monkeypatch.setattr(server.registry, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.server_close()
        assert server.socket.fileno() == -1

    def test_in_a_handler_closes_the_listener_in_the_end(self, server_class: Any) -> None:
        class Handler(Quiet):
            events: list[Any] = []
            lines: list[str] = []

            def on_open(self) -> None:
                self.server.server_close()

        server = server_class(("127.0.0.1", 0), Handler)
        handle = run_in_thread(server.serve_forever)
        with socket.create_connection(server.server_address, SOON) as sock:
            sock.sendall(opening_request())
            with contextlib.suppress(ConnectionResetError):
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)
        handle.result()
        assert server.socket.fileno() == -1

    def test_without_block_on_close_waits_for_no_handler(self) -> None:
        go = threading.Event()

        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.events.append("stuck")
                go.wait(60)

        attributes = {"block_on_close": False, "shutdown_timeout": 60}
        with serving(Handler, server_attributes=attributes) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            wait_until(lambda: "stuck" in events(running))
            run_in_thread(running.server.server_close).result()
            assert peer.read_close() == 1001
            leave(peer, 1001)
            go.set()

    @pytest.mark.parametrize("started", [False, True])
    def test_after_an_interrupt_of_a_threads_start(self, monkeypatch: pytest.MonkeyPatch, started: bool) -> None:
        """Ctrl-C while a handler's thread is being started, which runs already or never will."""
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        start = threading.Thread.start

        def interrupted(thread: threading.Thread) -> None:
            if "process_request" not in thread.name:
                return start(thread)
            if started:
                start(thread)
                wait_until(lambda: Handler.events)  # type: ignore[attr-defined]
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", interrupted)
        server = ThreadingWebSocketServer(("127.0.0.1", 0), Handler)
        handle = run_in_thread(server.serve_forever)
        with socket.create_connection(server.server_address, SOON) as sock, RawPeer(sock, masks=True) as peer:
            peer.send(opening_request())
            with pytest.raises(KeyboardInterrupt):
                handle.result()
            closing = run_in_thread(server.server_close)
            if started:
                peer.read_until(b"\r\n\r\n")
                assert peer.read_close() == 1001
                leave(peer, 1001)
            else:
                assert peer.read_to_end() == b""
            closing.result()
        assert not server.registry
        assert not [thread for thread in threading.enumerate() if "process_request" in thread.name]

    def test_after_an_interrupt_ends_the_connections(self) -> None:
        done = run_program("""
            import os, signal, threading
            from websocketserver import ThreadingWebSocketServer, WebSocketClient, WebSocketRequestHandler

            class Handler(WebSocketRequestHandler):
                def on_open(self):
                    self.websocket.send("open")
                def log_message(self, *args):
                    pass

            def client():
                with WebSocketClient(f"ws://127.0.0.1:{server.server_port}/") as websocket:
                    websocket.recv()
                    os.kill(os.getpid(), signal.SIGINT)
                    print(list(websocket), websocket.close_code)

            with ThreadingWebSocketServer(("127.0.0.1", 0), Handler) as server:
                thread = threading.Thread(target=client)
                thread.start()
                try:
                    server.serve_forever()
                except KeyboardInterrupt:
                    print("interrupted")
            thread.join()
        """)
        assert done.stdout.splitlines() == ["interrupted", "[] 1001"], done


def address_of(peer: RawPeer) -> Any:
    return peer.sock.getsockname()


class TestDrain:
    """For a while connections may end by themselves; then they are closed, with the seconds that are left."""

    @pytest.fixture(params=ALL, ids=lambda kind: kind.__name__)
    def server_class(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_lets_connections_end_by_themselves(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            handle = run_in_thread(running.server.shutdown, 10, drain=9)
            wait_until(lambda: running.server.registry._draining)
            peer.frame(TEXT, b"x")
            assert peer.read_frame().payload == b"x"
            leave(peer)
            assert peer.read_close() == 1000
            report = handle.result()
            assert report == ((address_of(peer),), (), ())
        assert events(running) == ["open", "x", (1000, "")]

    def test_is_followed_by_the_close(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            began = time.monotonic()
            handle = run_in_thread(running.server.shutdown, 10, 1012, "restart", drain=0.2)
            assert peer.read_frame().payload == (1012).to_bytes(2, "big") + b"restart"
            assert time.monotonic() - began >= 0.2
            leave(peer, 1012)
            assert handle.result() == ((address_of(peer),), (), ())

    @pytest.mark.parametrize("kind", [BOTH[0], PoolingWebSocketServer], ids=lambda kind: kind.__name__)
    def test_turns_newcomers_away(self, kind: Any) -> None:
        with serving(server_class=kind) as running, raw_client(running) as peer:
            handle = run_in_thread(running.server.shutdown, 10, drain=9)
            wait_until(running.server._barred.is_set)
            with raw_client(running, status=503) as newcomer:
                assert b"Retry-After: 5" in newcomer.head
            leave(peer)
            handle.result()
        assert any("shutting down" in line for line in lines(running))

    @pytest.mark.parametrize("kind", [BOTH[0], PoolingWebSocketServer], ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_serves_whoever_was_there_before(self, kind: Any, tls: bool) -> None:
        """Its first request may have been on its way when the shutdown began."""
        with serving(server_class=kind, tls=tls) as running, contextlib.ExitStack() as stack:
            began = threading.Event()
            start = running.server.registry.start_draining
            running.server.registry.start_draining = lambda tell: (start(tell), began.set())
            sock = stack.enter_context(connected(running))
            wait_until(lambda: len(running.server.registry) == 1)
            handle = run_in_thread(running.server.shutdown, 10, drain=9)
            assert began.wait(SOON)
            if tls:
                from .support import certificates

                sock = stack.enter_context(certificates().client.wrap_socket(sock, server_hostname="localhost"))
            sock.sendall(opening_request())
            with RawPeer(sock, masks=True) as peer:
                assert b"101" in peer.read_until(b"\r\n\r\n")
                leave(peer)
                peer.read_to_end()
            handle.result()
        assert events(running) == ["open", (1000, "")]

    @pytest.mark.parametrize("kind", [BOTH[0], PoolingWebSocketServer], ids=lambda kind: kind.__name__)
    def test_ends_what_is_kept_alive(self, kind: Any) -> None:
        class Handler(Slow):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.events.append(self.path)
                if self.path == "/slow":
                    self.go.wait(SOON)
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()

        go = threading.Event()
        with serving(Handler, server_class=kind, go=go) as running, contextlib.ExitStack() as stack:
            idle, busy, both = (stack.enter_context(connected(running)) for _ in range(3))
            idle.sendall(PAGE)
            assert b"204" in idle.recv(4096)
            for sock in (busy, both):
                sock.sendall(PAGE.replace(b"/ ", b"/slow ", 1))
            wait_until(lambda: events(running).count("/slow") == 2)
            handle = run_in_thread(running.server.shutdown, 10, drain=9)
            assert idle.recv(1) == b""
            wait_until(lambda: all(accepted._draining for accepted in running.server.registry._all()))
            both.sendall(PAGE)
            go.set()
            assert b"204" in busy.recv(4096)
            assert busy.recv(1) == b""
            assert read_to_end(both).startswith(b"HTTP/1.1 204")
            assert handle.result() == ((), (), ())
        assert events(running).count("/") == 1

    def test_ends_with_a_more_urgent_shutdown(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            patient = run_in_thread(running.server.shutdown, 60, drain=50)
            wait_until(lambda: running.server.registry._draining)
            urgent = run_in_thread(running.server.shutdown, 10)
            assert peer.read_close() == 1001
            leave(peer, 1001)
            assert urgent.result() == ((address_of(peer),), (), ())
            patient.result()

    @pytest.mark.parametrize("drain", [-1, 10, 11])
    def test_must_leave_something_of_the_timeout(self, drain: float) -> None:
        with serving() as running:
            with pytest.raises(ValueError, match=f"drain must be from 0 to less than the timeout of 10 .*{drain}"):
                running.server.shutdown(drain=drain)
            assert echo(running) == b"x"


class TestReport:
    """What shutdown returns."""

    @pytest.fixture(params=[BOTH[0], PoolingWebSocketServer], ids=lambda kind: kind.__name__)
    def server_class(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_tells_who_was_closed_who_was_cut_and_who_would_not_end(self, server_class: Any) -> None:
        go = threading.Event()

        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.events.append(message)
                stay_here(go)

        with serving(Handler, server_class=server_class) as running, contextlib.ExitStack() as stack:
            polite, silent, stuck = (stack.enter_context(raw_client(running)) for _ in range(3))
            stuck.frame(TEXT, b"x")
            wait_until(lambda: "x" in events(running))
            patient = run_in_thread(running.server.shutdown, 10)
            assert polite.read_close() == 1001
            leave(polite, 1001)
            wait_until(lambda: len(running.server.registry) == 2)
            assert "stay_here" in str(running.server.shutdown(0.2))
            wait_until(lambda: len(running.server.registry) == 1)  # however late the cut shows
            report = running.server.registry.report()
            go.set()
            assert patient.result().closed == (address_of(polite),)
            assert report.closed == (address_of(polite),)
            assert report.cut == (address_of(silent),)
            [running_handler] = report.running
            assert running_handler.address == address_of(stuck)
            assert running_handler.thread
            assert "stay_here" in running_handler.stack
            wait_until(lambda: len(running.server.registry) == 0)

    def test_counts_an_answer_that_was_cut(self, server_class: Any) -> None:
        go = threading.Event()

        class Handler(Slow):
            def do_GET(self) -> None:
                self.events.append("asked")
                for _ in range(1000):
                    self.wfile.write(bytes(1_000_000))

        with serving(Handler, server_class=server_class, go=go) as running, connected(running) as sock:
            sock.sendall(PAGE)
            wait_until(lambda: events(running))
            running.server.shutdown(0.3)
            wait_until(lambda: len(running.server.registry) == 0)  # the cut may show later than the shutdown waits
            assert running.server.registry.report() == ((), (sock.getsockname(),), ())

    def test_begins_anew_with_each_serving(self, server_class: Any) -> None:
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        with server_class(("127.0.0.1", 0), Handler) as server:
            for _ in range(2):
                handle = run_in_thread(server.serve_forever)
                with socket.create_connection(server.server_address, SOON) as sock:
                    sock.sendall(opening_request())
                    peer = RawPeer(sock, masks=True)
                    peer.read_until(b"\r\n\r\n")
                    stopping = run_in_thread(server.shutdown)
                    assert peer.read_close() == 1001
                    leave(peer, 1001)
                    assert stopping.result() == ((sock.getsockname(),), (), ())
                handle.result()

    def test_is_none_where_shutdown_does_not_wait(self) -> None:
        class Server(WebSocketServer):
            returned: list[Any] = []

            def service_actions(self) -> None:
                self.returned.append(self.shutdown())

        with Server(("127.0.0.1", 0), Quiet) as server:
            run_in_thread(server.serve_forever, 0.01).result()
            assert server.returned == [None]

    def test_of_one_at_a_time(self) -> None:
        go = threading.Event()

        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.events.append("stuck")
                stay_here(go)

        with serving(Handler, server_class=WebSocketServer) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            wait_until(lambda: events(running) == ["open", "stuck"])
            report = running.server.shutdown(0.2)
            [running_handler] = report.running
            assert "stay_here" in running_handler.stack
            began = time.monotonic()
            running.server._shut_down(running.server._make_stop(20, 1001, "", 0))
            assert time.monotonic() - began < 10  # what was given up is not waited for again
            go.set()


def stay_here(go: threading.Event) -> None:
    go.wait(2 * SOON)


RUN = """
    import os, signal, socket, sys, threading, time
    from tests.support import wait_until
    from websocketserver import *

    class Handler(WebSocketRequestHandler):
        def on_open(self):
            self.websocket.send("open")
        def on_message(self, message):
            print("stuck", flush=True)
            threading.Event().wait(60)
        def log_message(self, *args):
            pass

    def connect():
        return WebSocketClient(f"ws://127.0.0.1:{server.server_port}/")

    def in_thread(function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread
"""


class TestRun:
    """In programs of their own, since signals are the process's."""

    @pytest.mark.parametrize("kind", [kind.__name__ for kind in ALL])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
    def test_serves_until_a_signal_comes(self, kind: str, number: signal.Signals) -> None:
        done = run_program(f"""{RUN}
    def client():
        with connect() as websocket:
            websocket.recv()
            os.kill(os.getpid(), {number:d})
            try:
                websocket.recv()
            except ConnectionClosed as closed:
                print(closed)

    def own(*args):
        print("own")

    signal.signal({number:d}, own)
    with {kind}(("127.0.0.1", 0), Handler) as server:
        thread = in_thread(client)
        report = server.run(code=1012, reason="restart")
        thread.join()
        print(len(report.closed), report.cut, report.running, signal.getsignal({number:d}) is own)
        """)
        assert done.stdout.splitlines() == ["received 1012 restart, sent 1012", "1 () () True"], done
        assert done.returncode == 0

    @pytest.mark.parametrize("kind", [kind.__name__ for kind in ALL])
    def test_cuts_at_once_with_a_second_signal(self, kind: str) -> None:
        done = run_program(f"""{RUN}
    def client():
        websocket = connect()
        websocket.recv()
        websocket.send("stay")

    def silent():
        sock = socket.create_connection(server.server_address)
        sock.sendall({opening_request()!r})
        while b"open" not in sock.recv(4096):
            pass
        in_thread(sock.recv, 100)  # holds on, and never answers the Close
        return sock

    class Told(Handler):
        def on_message(self, message):
            signals()
            super().on_message(message)

    def signals():
        os.kill(os.getpid(), signal.SIGTERM)
        in_thread(again)

    def again():
        wait_until(lambda: server._stop is not None)
        os.kill(os.getpid(), signal.SIGTERM)

    with {kind}(("127.0.0.1", 0), Told) as server:
        def clients():
            if {kind} is not WebSocketServer:  # which has one at a time
                held.append(silent())
            client()
        held = []
        in_thread(clients)
        began = time.monotonic()
        report = server.run(60)
        print(len(report.cut), len(report.running), "in on_message" in report.running[0].stack)
    print(time.monotonic() - began < 20)
        """)
        cut = 0 if kind == "WebSocketServer" else 1
        assert done.stdout.splitlines() == ["stuck", f"{cut} 1 True", "True"], done
        assert done.returncode == 0
        assert done.stderr == ""

    @pytest.mark.parametrize("kind", [kind.__name__ for kind in ALL])
    def test_ends_by_its_deadline(self, kind: str) -> None:
        done = run_program(f"""{RUN}
    class Told(Handler):
        def on_message(self, message):
            os.kill(os.getpid(), signal.SIGINT)
            super().on_message(message)

    def client():
        websocket = connect()
        websocket.recv()
        websocket.send("stay")

    with {kind}(("127.0.0.1", 0), Told) as server:
        in_thread(client)
        began = time.monotonic()
        report = server.run(0.5)
        print(len(report.running))
        print(str(report).splitlines()[0])
    print(time.monotonic() - began < 10)
        """)
        assert done.stdout.splitlines() == ["stuck", "1", "closed 0, cut 0, still running 1:", "True"], done
        assert done.stderr == ""

    def test_ends_with_a_shutdown_from_elsewhere(self) -> None:
        done = run_program(f"""{RUN}
    with ThreadingWebSocketServer(("127.0.0.1", 0), Handler) as server:
        def client():
            with connect() as websocket:
                websocket.recv()
                in_thread(server.shutdown)
                list(websocket)
        thread = in_thread(client)
        print(len(server.run().closed))
        """)
        assert done.stdout == "1\n", done

    def test_passes_on_what_serving_raises(self) -> None:
        done = run_program(f"""{RUN}
    class Server(ThreadingWebSocketServer):
        def service_actions(self):
            raise OSError("no service")
    with Server(("127.0.0.1", 0), Handler) as server:
        before = signal.getsignal(signal.SIGTERM)
        try:
            server.run()
        except OSError as error:
            print(error, signal.getsignal(signal.SIGTERM) is before)
        """)
        assert done.stdout == "no service True\n", done

    def test_leaves_alone_a_signal_that_is_ignored(self) -> None:
        """As under nohup, or in the background of a shell."""
        done = run_program(f"""{RUN}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    def ending():
        with connect() as websocket:
            websocket.recv()
            os.kill(os.getpid(), signal.SIGINT)
            websocket.ping().wait(5)
            os.kill(os.getpid(), signal.SIGTERM)
            print(list(websocket))
    with ThreadingWebSocketServer(("127.0.0.1", 0), Handler) as server:
        thread = in_thread(ending)
        server.run()
        thread.join()
        print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        """)
        assert done.stdout == "[]\nTrue\n", done

    def test_is_for_the_main_thread(self) -> None:
        with serving() as running:
            with pytest.raises(RuntimeError, match=r"main thread.*serve_forever\(\) and shutdown\(\)"):
                run_in_thread(running.server.run).result()
            assert echo(running) == b"x"

    def test_checks_its_arguments_first(self) -> None:
        with WebSocketServer(("127.0.0.1", 0), Quiet) as server:
            with pytest.raises(ValueError, match="1006"):
                server.run(code=1006)
            with pytest.raises(ValueError, match="drain"):
                server.run(1, drain=2)

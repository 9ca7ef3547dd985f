"""The router: which handler serves which path and subprotocol, under every server."""

from __future__ import annotations

import functools
import http.server
import re
import socket
import textwrap
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from websocketserver import (
    HandshakeError,
    Route,
    Router,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketConnection,
    WebSocketRequestHandler,
    WebSocketServer,
)
from websocketserver.pooling import PoolingWebSocketServer

from .support import SOON, Running, opening_request, raw_client, run_in_thread, running_server, wait_until


class ThreadingHTTPServer(http.server.ThreadingHTTPServer):
    def serve_forever(self, poll_interval: float = 0.01) -> None:  # it polls for its shutdown
        super().serve_forever(poll_interval)


SERVERS = [ThreadingWebSocketServer, WebSocketServer, PoolingWebSocketServer, ThreadingHTTPServer]


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class Quiet(WebSocketRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Named(Quiet):
    """Says who it is, over WebSocket only."""

    name = "named"

    def on_open(self) -> None:
        self.websocket.send(f"{self.name} {self.websocket.subprotocol}")


class Page(Quiet):
    """Says who it is, over HTTP only."""

    protocol_version = "HTTP/1.1"
    name = "page"

    def do_GET(self) -> None:
        self.answer(f"{self.name} {self.path}")

    def answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Posts(Page):
    name = "posts"

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())


def named(name: str, kind: type[WebSocketRequestHandler] = Named) -> Any:
    return type(name, (kind,), {"name": name})


def new_router() -> Router:
    return Router(Quiet)


def greeting(running: Running, path: str = "/", *subprotocols: str) -> str:
    """Return what is said first, by whom and in which subprotocol; the status where the server refuses."""
    try:
        with WebSocketClient(running.url(path), subprotocols=subprotocols, **running.client_options) as websocket:
            return str(websocket.recv(timeout=SOON))
    except HandshakeError as refusal:
        return str(refusal.status)


def exchange(running: Running, *requests: bytes) -> list[str]:
    """Send requests on one connection, all at once, and return the status and body of each answer."""
    with socket.create_connection(running.address[:2], SOON) as sock:
        sock.sendall(b"".join(requests))
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(1 << 16):
            received += data
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length
        body, received = received[: int(length[1])], received[int(length[1]) :]
        answers.append(f"{head.split()[1].decode()} {body.decode().strip()}")
    return answers


def get(path: str, method: str = "GET", body: str = "", *fields: str) -> bytes:
    length = f"Content-Length: {len(body)}" if body else "X-None: here"
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", length, *fields, "", body]).encode()


class TestPaths:
    def test_exact_ones_match_nothing_else(self, server_class: Any) -> None:
        router = new_router()
        router.mount("/chat", named("chat"))
        router.mount("/chat.2", named("other"))
        with running_server(router, server_class=server_class) as running:
            assert greeting(running, "/chat") == "chat None"
            assert greeting(running, "/chat?room=1") == "chat None"
            assert greeting(running, "/chat.2") == "other None"
            for path in ("/", "/chat/", "/Chat", "/chatx2", "/%63hat", "//chat"):
                assert greeting(running, path) == "404"

    def test_a_star_matches_every_path(self) -> None:
        router = new_router()
        router.mount("*", named("any"))
        with running_server(router) as running:
            assert greeting(running, "/") == greeting(running, "/deep/down?x") == "any None"

    def test_the_first_route_mounted_wins(self) -> None:
        router = new_router()
        router.mount("/early", named("early"))
        router.mount("*", named("any"))
        router.mount("/late", named("late"))
        with running_server(router) as running:
            assert greeting(running, "/early") == "early None"
            assert greeting(running, "/late") == "any None"

    def test_the_path_of_an_absolute_target_counts(self) -> None:
        router = new_router()
        router.mount("/chat", named("chat"))
        with running_server(router) as running, raw_client(running, "http://localhost/chat?x=/other") as peer:
            assert peer.read_frame().payload == b"chat None"

    def test_patterns_match_whole_paths_and_hand_over_their_match(self, server_class: Any) -> None:
        class Room(Quiet):
            def on_open(self) -> None:
                assert self.match is not None
                self.websocket.send(f"{self.match['name']} {self.match[2]}")

        router = new_router()
        router.mount(re.compile("/rooms/(?P<name>[a-z]+)(?:/([0-9]+))?"), Room)
        with running_server(router, server_class=server_class) as running:
            assert greeting(running, "/rooms/red/7?x") == "red 7"
            assert greeting(running, "/rooms/red") == "red None"
            assert greeting(running, "/rooms/red/7/8") == greeting(running, "/x/rooms/red") == "404"

    def test_without_a_pattern_there_is_no_match(self) -> None:
        class Here(Quiet):
            def on_open(self) -> None:
                self.websocket.send(str(self.match))

        router = new_router()
        router.mount("/", Here)
        with running_server(router) as running:
            assert greeting(running) == "None"


class TestSubprotocols:
    @pytest.fixture
    def running(self) -> Any:
        router = new_router()
        router.mount("/", named("none"), subprotocol=None)
        router.mount("/", named("chat"), subprotocol="chat")
        router.mount("/", named("Mixed"), subprotocol="Superchat")
        router.mount("/any", named("any"))
        with running_server(router) as running:
            yield running

    def test_none_is_for_clients_that_ask_for_none(self, running: Running) -> None:
        assert greeting(running) == "none None"

    def test_the_one_mounted_is_agreed_on(self, running: Running) -> None:
        assert greeting(running, "/", "chat") == "chat chat"

    def test_case_plays_no_part_and_the_clients_is_agreed_on(self, running: Running) -> None:
        assert greeting(running, "/", "CHAT") == "chat CHAT"
        assert greeting(running, "/", "superchat") == "Mixed superchat"

    def test_the_clients_order_counts_before_ours(self, running: Running) -> None:
        assert greeting(running, "/", "Superchat", "chat") == "Mixed Superchat"
        assert greeting(running, "/", "unknown", "chat", "Superchat") == "chat chat"

    def test_one_that_nobody_speaks_is_404(self, running: Running) -> None:
        assert greeting(running, "/", "unknown") == "404"

    def test_a_star_takes_any_and_the_class_decides(self, running: Running) -> None:
        assert greeting(running, "/any") == greeting(running, "/any", "chat") == "any None"

    def test_a_class_mounted_with_a_star_has_its_own(self) -> None:
        router = new_router()
        router.mount("/", type("Two", (Named,), {"subprotocols": ("b", "a")}))
        with running_server(router) as running:
            assert greeting(running, "/", "x", "a", "b") == "named b"

    def test_a_class_may_decide_against_the_one_mounted(self) -> None:
        class Choosy(Named):
            def select_subprotocol(self, offered: Any) -> str:
                return str(offered[-1])

        router = new_router()
        router.mount("/", Choosy, subprotocol="a")
        with running_server(router) as running:
            assert greeting(running, "/", "a", "b") == "named b"

    def test_a_malformed_list_is_400(self) -> None:
        router = new_router()
        router.mount("*", Named)
        with running_server(router) as running:
            with raw_client(running, headers={"Sec-WebSocket-Protocol": "a b"}, status=400):
                pass


class TestFunctions:
    def test_are_called_with_the_connection_and_closed_on_return(self, server_class: Any) -> None:
        router = new_router()

        @router.route("/echo")
        def echo(websocket: WebSocketConnection) -> None:
            websocket.send(websocket.recv(timeout=SOON))

        with running_server(router, server_class=server_class) as running:
            with WebSocketClient(running.url("/echo")) as websocket:
                websocket.send("hello")
                assert list(websocket) == ["hello"]
                assert websocket.close_code == 1000
        assert router.routes == [Route("/echo", "*", echo)]

    def test_get_the_groups_of_the_pattern(self) -> None:
        router = new_router()

        @router.route(re.compile("/([a-z]+)/([0-9]+)?"))
        def in_order(websocket: WebSocketConnection, name: str, number: str | None) -> None:
            websocket.send(f"{name} {number}")

        @router.route(re.compile("/named/(?P<name>.+)/(?P<number>.+)"))
        def by_name(websocket: WebSocketConnection, number: str, name: str) -> None:
            websocket.send(f"{name} {number}")

        with running_server(router) as running:
            assert greeting(running, "/room/7") == "room 7"
            assert greeting(running, "/room/") == "room None"
            assert greeting(running, "/named/room/7") == "room 7"

    def test_speak_the_subprotocol_mounted_or_else_the_clients_first(self) -> None:
        def tell(websocket: WebSocketConnection) -> None:
            websocket.send(str(websocket.subprotocol))

        router = new_router()
        router.mount("/chat", tell, subprotocol="chat")
        router.mount("/", tell)
        with running_server(router) as running:
            assert greeting(running, "/chat", "a", "Chat") == "Chat"
            assert greeting(running, "/", "b", "a") == "b"
            assert greeting(running, "/") == "None"

    def test_have_the_settings_of_the_routers_handler_class(self) -> None:
        class Small(Quiet):
            max_message_size = 10
            allowed_origins = ("https://example.org",)

        router = Router(Small)
        router.mount("/", lambda websocket: websocket.recv())
        with running_server(router) as running:
            with raw_client(running, headers={"Origin": "https://example.org"}) as peer:
                peer.frame(2, bytes(11))
                assert peer.read_close() == 1009
            with raw_client(running, headers={"Origin": "https://example.com"}, status=403):
                pass

    def test_may_be_any_callable(self) -> None:
        class Greeter:
            def __call__(self, websocket: WebSocketConnection) -> None:
                websocket.send("called")

            def method(self, websocket: WebSocketConnection) -> None:
                websocket.send("method")

        router = new_router()
        router.mount("/called", Greeter())
        router.mount("/method", Greeter().method)
        router.mount("/partial", functools.partial(lambda word, websocket: websocket.send(word), "partial"))
        with running_server(router) as running:
            for name in ("called", "method", "partial"):
                assert greeting(running, "/" + name) == name

    def test_an_exception_is_reported_once_and_closes_with_1011(self, server_class: Any) -> None:
        def fail(websocket: WebSocketConnection) -> None:
            raise ZeroDivisionError

        router = new_router()
        router.mount("/", fail)
        with running_server(router, server_class=server_class, errors_expected=True) as running:
            with raw_client(running) as peer:
                assert peer.read_close() == 1011
                peer.close_frame(1011)
            wait_until(lambda: running.errors)
        assert [type(error) for error in running.errors] == [ZeroDivisionError]


class TestChosenClass:
    def test_its_settings_hold(self, server_class: Any) -> None:
        class Guarded(Named):
            max_message_size = 5
            websocket_versions = (13,)
            fragment_size = 3
            compression = None

        router = new_router()
        router.mount("/", Guarded)
        with running_server(router, server_class=server_class) as running:
            with raw_client(running, headers={"Sec-WebSocket-Version": "8"}, status=426):
                pass
            with raw_client(running) as peer:
                assert peer.read_frame().payload == b"nam"  # in fragments of 3
                peer.frame(1, b"123456")
                assert peer.read_close() == 1009

    def test_its_setup_and_finish_run_once_for_each_request(self, server_class: Any) -> None:
        calls: list[str] = []

        class Counting(Page):
            def setup(self) -> None:
                super().setup()
                calls.append(f"setup {self.path}")

            def finish(self) -> None:
                super().finish()
                calls.append(f"finish {self.path}")

            def on_open(self) -> None:
                calls.append("open")
                self.websocket.start_close()

        router = Router(Counting)
        router.mount("*", Counting)
        with running_server(router, server_class=server_class) as running:
            with raw_client(running, request=get("/a") + opening_request("/b"), status=200) as peer:
                assert peer.read_until(b"\r\n\r\n").startswith(b"page /aHTTP/1.1 101 ")
                assert peer.read_close() == 1000
                peer.close_frame()
                peer.read_to_end()
        assert calls == ["setup /a", "finish /a", "setup /b", "open", "finish /b"]

    def test_its_own_attributes_stay_its_own(self) -> None:
        class Stateful(Page):
            def do_GET(self) -> None:
                self.seen = getattr(self, "seen", 0) + 1
                self.answer(str(self.seen))

        router = new_router()
        router.mount("*", Stateful)
        with running_server(router) as running:
            assert exchange(running, get("/"), get("/")) == ["200 1", "200 1"]

    def test_it_knows_who_is_there(self) -> None:
        class Who(Quiet):
            trusted_proxies = ("127.0.0.1",)

            def on_open(self) -> None:
                self.websocket.send(" ".join(self.remote_addresses))

        router = new_router()
        router.mount("/", Who)
        with running_server(router) as running:
            with raw_client(running, headers={"X-Forwarded-For": "203.0.113.7"}) as peer:
                assert peer.read_frame().payload == b"203.0.113.7 127.0.0.1"

    def test_nagles_algorithm_is_as_it_says(self) -> None:
        class Nagle(Page):
            disable_nagle_algorithm = False

            def do_GET(self) -> None:
                self.answer(str(self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))

        router = new_router()
        router.mount("/", Nagle)
        with running_server(router) as running:
            assert exchange(running, get("/")) == ["200 0"]

    def test_it_sends_100_continue_or_refuses_to(self) -> None:
        class Refusing(Posts):
            def handle_expect_100(self) -> bool:
                self._refuse(417, "no")
                return False

        router = new_router()
        router.mount("/yes", Posts)
        router.mount("/no", Refusing)
        with running_server(router) as running:
            request = get("/yes", "POST", "body", "Expect: 100-continue")
            with raw_client(running, request=request, status=100) as peer:
                assert peer.read_until(b"\r\n\r\nbody").startswith(b"HTTP/1.1 200")
            with raw_client(running, request=request.replace(b"yes", b"no"), status=417):
                pass
            with raw_client(running, request=request.replace(b"yes", b"nowhere"), status=404):
                pass

    def test_glued_frames_arrive(self, server_class: Any) -> None:
        class Echo(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.send(message)

        router = new_router()
        router.mount("/", Echo)
        with running_server(router, server_class=server_class) as running:
            glued = b"\x81\x85\x00\x00\x00\x00hello\x81\x82\x00\x00\x00\x00yo"
            with raw_client(running, glued=glued) as peer:
                assert [peer.read_frame().payload for _ in range(2)] == [b"hello", b"yo"]


class TestOrdinaryRequests:
    @pytest.fixture
    def router(self) -> Router:
        router = new_router()
        router.mount("/chat", Named)
        router.mount("/posts", Posts)
        router.mount(re.compile("/chat/.*"), named("below", Page))
        return router

    def test_go_to_routes_that_have_the_method(self, router: Router, server_class: Any) -> None:
        with running_server(router, server_class=server_class) as running:
            assert exchange(running, get("/posts?x=1")) == ["200 posts /posts?x=1"]
            assert exchange(running, get("/posts", "POST", "body")) == ["200 body"]
            assert exchange(running, get("/chat/1")) == ["200 below /chat/1"]
            assert greeting(running, "/chat") == "named None"

    def test_one_connection_may_visit_several_routes(self, router: Router, server_class: Any) -> None:
        with running_server(router, server_class=server_class) as running:
            requests = [get("/posts"), get("/posts", "POST", "body"), get("/chat/2"), get("/nowhere")]
            *answers, last = exchange(running, *requests, get("/posts"))
            assert answers == ["200 posts /posts", "200 body", "200 below /chat/2"]
            assert last.startswith("404 ")  # which ends the connection
            with raw_client(running, request=get("/posts"), status=200) as peer:  # now one after the other
                assert peer.read_until(b"posts /posts")
                peer.send(get("/chat/3"))
                assert peer.read_until(b"below /chat/3").startswith(b"HTTP/1.1 200")
                peer.send(opening_request("/chat"))
                peer.read_until(b"\r\n\r\n")
                assert peer.read_frame().payload == b"named None"

    def test_what_no_route_has_is_404(self, router: Router, server_class: Any) -> None:
        with running_server(router, server_class=server_class) as running:
            for request in (get("/nowhere"), get("/nowhere", "POST", "x"), get("/", "DELETE"), get("*", "OPTIONS")):
                assert exchange(running, request)[0].startswith("404 ")

    def test_where_only_sockets_are_served_the_answer_says_so(self, router: Router) -> None:
        with running_server(router) as running:
            with raw_client(running, request=get("/chat"), status=426) as peer:
                assert b"\r\nUpgrade: websocket" in peer.head
            assert exchange(running, get("/chat", "POST", "x"))[0].startswith("405 ")
            assert exchange(running, get("/posts", "DELETE"))[0].startswith("501 ")

    def test_a_page_serves_no_upgrades(self, router: Router) -> None:
        router.mount("*", named("site", Page))
        with running_server(router) as running:
            assert greeting(running, "/posts") == greeting(running, "/anywhere") == "404"
            assert exchange(running, get("/anywhere")) == ["200 site /anywhere"]
            assert exchange(running, get("/chat")) == ["200 site /chat"]

    def test_one_class_may_serve_both(self) -> None:
        class Both(Page, Named):
            pass

        router = new_router()
        router.mount("/", Both)
        with running_server(router) as running:
            assert greeting(running) == "page None"
            assert exchange(running, get("/")) == ["200 page /"]

    def test_files_are_served_by_a_partial(self, tmp_path: Path, server_class: Any) -> None:
        class Site(Quiet, SimpleHTTPRequestHandler):
            pass

        (tmp_path / "index.html").write_text("the index")
        router = new_router()
        router.mount("/chat", Named)
        router.mount("*", functools.partial(Site, directory=str(tmp_path)))
        with running_server(router, server_class=server_class) as running:
            assert exchange(running, get("/")) == ["200 the index"]
            assert exchange(running, get("/missing"))[0].startswith("404 ")
            assert greeting(running, "/chat") == "named None"

    def test_a_body_left_unread_ends_the_connection(self) -> None:
        router = new_router()
        router.mount("/", type("Lazy", (Page,), {"do_POST": Page.do_GET}))
        with running_server(router) as running:
            assert exchange(running, get("/", "POST", get("/smuggled").decode()), get("/")) == ["200 page /"]

    def test_an_exception_is_reported_and_ends_the_connection(self, server_class: Any) -> None:
        class Failing(Page):
            def do_GET(self) -> None:
                raise ZeroDivisionError

        router = new_router()
        router.mount("/", Failing)
        with running_server(router, server_class=server_class, errors_expected=True) as running:
            assert exchange(running, get("/"), get("/")) == []
            wait_until(lambda: running.errors)
        assert [type(error) for error in running.errors] == [ZeroDivisionError]


class TestTls:
    @pytest.mark.parametrize("server_class", [ThreadingWebSocketServer, PoolingWebSocketServer])
    def test_pages_and_sockets(self, server_class: Any) -> None:
        router = new_router()
        router.mount("/", Page)
        router.mount("/chat", Named)
        with running_server(router, server_class=server_class, tls=True) as running:
            with raw_client(running, request=get("/"), status=200) as peer:
                assert peer.read_until(b"page /")
                peer.send(opening_request("/chat"))
                peer.read_until(b"\r\n\r\n")
                assert peer.read_frame().payload == b"named None"
            assert greeting(running, "/chat") == "named None"


class TestMounting:
    def test_a_duplicate_is_refused(self) -> None:
        router = new_router()
        for path in ("/a", "*", re.compile("/a")):
            for subprotocol in (None, "*", "Chat"):
                router.mount(path, Named, subprotocol=subprotocol)
        for path in ("/a", "*", re.compile("/a")):
            for subprotocol in (None, "*", "chat"):
                with pytest.raises(ValueError, match="is mounted already"):
                    router.mount(path, Page, subprotocol=subprotocol)
        assert len(router.routes) == 9

    def test_unmount_takes_what_mount_took(self) -> None:
        router = new_router()
        routes: list[tuple[Any, Any]] = [("/a", "*"), ("/a", None), ("*", "Chat"), (re.compile("/a(.)"), "*")]
        for path, subprotocol in routes:
            router.mount(path, Named, subprotocol=subprotocol)
        router.unmount("/a")
        assert [route.subprotocol for route in router.routes] == [None, "Chat", "*"]
        router.unmount("/a", subprotocol=None)
        router.unmount("*", subprotocol="chat")
        router.unmount(re.compile("/a(.)"))
        assert router.routes == []
        with pytest.raises(LookupError, match="'/a' with subprotocol '\\*' is not mounted"):
            router.unmount("/a")

    @pytest.mark.parametrize(
        "path, error",
        [
            (None, TypeError),
            (b"/a", TypeError),
            (re.compile(b"/a"), TypeError),
            ("", ValueError),
            ("a", ValueError),
            ("/a?b", ValueError),
            ("/a#b", ValueError),
            ("/ä", ValueError),
            ("/a b", ValueError),
        ],
    )
    def test_bad_paths(self, path: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="path"):
            new_router().mount(path, Named)

    @pytest.mark.parametrize(
        "subprotocol, error", [(b"a", TypeError), (1, TypeError), ("", ValueError), ("a,", ValueError)]
    )
    def test_bad_subprotocols(self, subprotocol: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="subprotocol"):
            new_router().mount("/", Named, subprotocol=subprotocol)

    @pytest.mark.parametrize("handler", [None, "Named", SimpleHTTPRequestHandler, functools.partial(int), Router()])
    def test_bad_handlers(self, handler: Any) -> None:
        with pytest.raises(TypeError):
            new_router().mount("/", handler)

    def test_a_router_needs_a_handler_class(self) -> None:
        with pytest.raises(TypeError, match="must be a WebSocketRequestHandler"):
            Router(SimpleHTTPRequestHandler)  # type: ignore[arg-type]

    def test_the_decorator_returns_what_it_mounts(self) -> None:
        router = new_router()

        @router.route("/here", subprotocol="chat")
        class Chat(Named):
            pass

        assert router.routes == [Route("/here", "chat", Chat)]

    def test_routes_may_come_and_go_and_connections_stay(self) -> None:
        class Echo(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.send(message)

        router = new_router()
        with running_server(router) as running:
            assert greeting(running) == "404"
            router.mount("/", Echo)
            with WebSocketClient(running.url()) as websocket:
                router.unmount("/")
                websocket.send("still here")
                assert websocket.recv(timeout=SOON) == "still here"
            assert greeting(running) == "404"

    @pytest.mark.parametrize("server_class", SERVERS[:3])
    def test_the_servers_shutdown_closes_routed_connections(self, server_class: Any) -> None:
        router = new_router()
        router.mount("/", Named)
        with running_server(router, server_class=server_class) as running:
            with WebSocketClient(running.url()) as websocket:
                assert websocket.recv(timeout=SOON) == "named None"
                shutdown = run_in_thread(running.server.shutdown)
                assert list(websocket) == []
                assert websocket.close_code == 1001
                websocket.close()
                shutdown.result()


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs/howto/routes.rst").read_text()
    code = textwrap.dedent(page.partition("code-block:: python\n")[2].partition("   with ")[0])
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("the index")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    for name in ("Chat", "Site"):
        names[name].log_message = Quiet.log_message
    with running_server(names["router"]) as running:
        with WebSocketClient(running.url("/rooms/red")) as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=SOON) == "red: hello"
        with WebSocketClient(running.url("/chat"), subprotocols=["chat"]) as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=SOON) == "hello"
        assert exchange(running, get("/")) == ["200 the index"]
        assert greeting(running, "/") == "404"

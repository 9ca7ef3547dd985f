"""Metrics: the counters of a server in Prometheus' format, read by Prometheus' own parser."""

from __future__ import annotations

import http.server
import urllib.error
import urllib.request
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from websocketserver import BasicAuth, MetricsMixIn, Router, ServerStats, WebSocketClient, format_metrics
from websocketserver.httphandler import StrictHTTPRequestHandler

from .serving import OURS, Quiet, ThreadingHTTPServer, connected, exchange, leave, serving
from .support import SOON, Running, raw_client, running_server, wait_until

TEXT = 1
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=OURS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class Metrics(MetricsMixIn, Quiet):
    pass


def parse(text: str) -> dict[str, Any]:
    """Return the values by name and labels, as Prometheus reads them."""
    assert text.endswith("\n")
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    values = {}
    for family in families:
        for sample in family.samples:
            assert (sample.name == family.name + "_total") is (family.type == "counter")
            key = sample.name.removeprefix("websocketserver_")
            assert key != sample.name, "every name says whose it is"
            assert (key, *sample.labels.values()) not in values
            values[(key, *sample.labels.values()) if sample.labels else key] = sample.value
    return values


def scrape(running: Running, path: str = "/metrics") -> dict[str, Any]:
    with urllib.request.urlopen(running.http_url(path), timeout=SOON) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(answer.read().decode())


class TestText:
    def test_of_all_there_is(self) -> None:
        values = parse(
            format_metrics(
                ServerStats(
                    accepted=9,
                    refused=Counter({"max_connections": 2}),
                    gave_way=1,
                    tls_handshakes_failed=3,
                    requests_refused=Counter({400: 8}),
                    handshakes_failed=Counter({403: 4, HTTPStatus.UNAUTHORIZED: 1, None: 5}),
                    handler_errors=6,
                    sockets_open=7,
                    connections_opened=8,
                    connections_open=5,
                    connections_dropped=4,
                    connection_seconds=12.5,
                    messages_received=1 << 60,
                    messages_sent=11,
                    bytes_received=12,
                    bytes_sent=13,
                    pings_received=14,
                    pings_sent=15,
                    closes_received=Counter({1000: 1, 3000: 1, 3999: 1, 4000: 1, 4999: 1}),
                    closes_sent=Counter({1001: 1, 4001: 2}),
                    latencies=[0.3, 0.1, 0.2],
                )
            )
        )
        assert values == {
            "sockets_accepted_total": 9,
            ("sockets_refused_total", "max_connections"): 2,
            "sockets_gave_way_total": 1,
            "sockets_open": 7,
            "tls_handshakes_failed_total": 3,
            ("requests_refused_total", "400"): 8,
            ("handshakes_failed_total", "403"): 4,
            ("handshakes_failed_total", "401"): 1,
            ("handshakes_failed_total", "none"): 5,
            "connections_opened_total": 8,
            "connections_open": 5,
            "connections_dropped_total": 4,
            "connection_seconds_total": 12.5,
            "messages_received_total": float(1 << 60),
            "messages_sent_total": 11,
            "bytes_received_total": 12,
            "bytes_sent_total": 13,
            "pings_received_total": 14,
            "pings_sent_total": 15,
            ("closes_received_total", "1000"): 1,
            ("closes_received_total", "3000-3999"): 2,
            ("closes_received_total", "4000-4999"): 2,
            ("closes_sent_total", "1001"): 1,
            ("closes_sent_total", "4001"): 2,
            "handler_errors_total": 6,
            ("round_trip_seconds", "0.5"): 0.2,
            ("round_trip_seconds", "0.9"): 0.3,
            ("round_trip_seconds", "1.0"): 0.3,
        }

    def test_of_nothing(self) -> None:
        values = parse(format_metrics(ServerStats()))
        assert set(values.values()) == {0}
        assert all(isinstance(key, str) for key in values)

    def test_escapes_what_a_label_says(self) -> None:
        reason = 'a\\nb"c\nd\\'
        values = parse(format_metrics(ServerStats(refused=Counter({reason: 1}))))
        assert values["sockets_refused_total", reason] == 1

    def test_has_no_more_labels_than_there_are_ranges(self) -> None:
        codes = Counter(dict.fromkeys(range(3000, 5000), 1))
        values = parse(format_metrics(ServerStats(closes_received=codes)))
        assert sum(key[0] == "closes_received_total" for key in values if isinstance(key, tuple)) == 2


class TestPage:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_is_what_the_server_has_counted(self, server_class: Any, tls: bool) -> None:
        with serving(Metrics, server_class=server_class, tls=tls) as running:
            with raw_client(running) as peer:
                peer.frame(TEXT, b"m")
                assert peer.read_frame().payload == b"m"
                options: Any = {"context": running.client_options["ssl_context"]} if tls else {}
                with urllib.request.urlopen(running.http_url("/metrics?x=y"), timeout=SOON, **options) as answer:
                    values = parse(answer.read().decode())
                assert (values["connections_open"], values["messages_received_total"]) == (1, 1)
                assert values["sockets_open"] == 2
                leave(peer)

    def test_is_bodyless_for_head(self, server_class: Any) -> None:
        with serving(Metrics, server_class=server_class) as running:
            head, _, body = exchange(running, SCRAPE.replace(b"GET", b"HEAD")).partition(b"\r\n\r\n")
            assert (head.split()[1], body) == (b"200", b"")
            assert b"Content-Length: " in head

    def test_leaves_the_rest_of_a_class_as_it_is(self) -> None:
        with serving(Metrics) as running:
            assert exchange(running, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").split()[1] == b"426"
            assert exchange(running, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").split()[1] == b"501"
            assert exchange(running, SCRAPE.replace(b"GET", b"POST")).split()[1] == b"501"
            with raw_client(running, "/metrics") as peer:  # an upgrade is none of its business
                leave(peer)

    def test_comes_before_a_do_get_of_the_classs_own(self) -> None:
        class Page(Metrics):
            def do_GET(self) -> None:
                self.send_response(204)
                self.end_headers()

        with serving(Page) as running:
            assert exchange(running, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").split()[1] == b"204"
            assert "sockets_open" in scrape(running)

    def test_comes_before_files(self, tmp_path: Path) -> None:
        (tmp_path / "metrics").write_text("a file")
        (tmp_path / "other").write_text("another")

        class Site(MetricsMixIn, Quiet, http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(tmp_path))

        with serving(Site) as running:
            assert "sockets_open" in scrape(running)
            with urllib.request.urlopen(running.http_url("/other"), timeout=SOON) as answer:
                assert answer.read() == b"another"

    @pytest.mark.parametrize(("path", "there"), [("/status", "/status"), (None, None)])
    def test_is_where_the_class_says(self, path: str | None, there: str | None) -> None:
        with serving(Metrics, metrics_path=path) as running:
            assert exchange(running, SCRAPE).split()[1] == b"426"
            if there:
                assert "sockets_open" in scrape(running, there)

    def test_may_be_a_route_beside_another_for_all(self, server_class: Any) -> None:
        class Page(Quiet):
            def do_GET(self) -> None:
                self.send_response(204)
                self.end_headers()

        outer: Any = type("Outer", (Quiet,), {"lines": []})
        router = Router(outer)
        router.mount("/metrics", type("Mine", (Metrics,), {"lines": []}))
        router.mount("*", type("Rest", (Page,), {"lines": []}))
        with running_server(router, server_class=server_class) as running:
            assert "sockets_open" in scrape(running)
            assert exchange(running, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").split()[1] == b"204"

    def test_may_be_for_some_only(self) -> None:
        class Private(Metrics):
            auth = BasicAuth({"prometheus": "pass"})

            def send_metrics(self) -> None:
                if self.auth.identify(self) is None:
                    self.send_error(401)
                else:
                    super().send_metrics()

        with serving(Private) as running:
            with pytest.raises(urllib.error.HTTPError) as refusal:
                scrape(running)
            refusal.value.close()
            assert refusal.value.status == 401

    def test_is_for_our_hosts_only(self) -> None:
        with serving(Metrics, allowed_hosts=("x",)) as running:
            assert exchange(running, SCRAPE).split()[1] == b"200"
            assert exchange(running, SCRAPE.replace(b": x", b": evil")).split()[1] == b"421"

    def test_of_a_request_with_a_body_is_no_request_more(self) -> None:
        """What is left of a body would be taken for the next request."""
        inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        request = SCRAPE[:-2] + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
        with serving(Metrics, protocol_version="HTTP/1.1") as running:
            answer = exchange(running, request)
        assert answer.count(b"HTTP/1.1 ") == 1

    def test_keeps_the_connection_for_the_next_scrape(self, server_class: Any) -> None:
        with serving(Metrics, server_class=server_class, protocol_version="HTTP/1.1") as running:
            with connected(running) as sock:
                for _ in range(3):
                    sock.sendall(SCRAPE)
                    received = b""
                    while b"round_trip_seconds gauge\n" not in received:
                        received += sock.recv(1 << 16)
                wait_until(lambda: running.server.stats.accepted == 1)

    def test_is_501_under_a_server_that_counts_nothing(self) -> None:
        with serving(Metrics, server_class=ThreadingHTTPServer) as running:
            assert exchange(running, SCRAPE).split()[1] == b"501"

    def test_works_without_websockets(self) -> None:
        class Plain(MetricsMixIn, StrictHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

        with running_server(Plain) as running:
            assert "sockets_open" in scrape(running)
            assert exchange(running, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").split()[1] == b"404"


def test_a_client_is_counted_to_the_end(server_class: Any) -> None:
    with serving(Metrics, server_class=server_class) as running:
        with WebSocketClient(running.url()) as client:
            client.send("m")
            assert client.recv(SOON) == "m"
        wait_until(lambda: running.server.stats.connections_open == 0)
        values = scrape(running)
        assert values["connections_opened_total"] == values["messages_sent_total"] == 1
        assert values["closes_received_total", "1000"] == values["closes_sent_total", "1000"] == 1

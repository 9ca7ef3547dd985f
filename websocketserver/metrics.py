"""Metrics: the counters of a server for Prometheus (text exposition format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

from .counters import ServerStats
from .handler import WebSocketRequestHandler
from .httphandler import StrictHTTPRequestHandler
from .protocol.handshake import split_target

__all__ = ["MetricsMixIn", "format_metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "websocketserver_"
QUANTILES = (0.5, 0.9, 1.0)


class MetricsMixIn(StrictHTTPRequestHandler):
    """Answers GET and HEAD at ``metrics_path`` with the server's counters for Prometheus::

        class Chat(MetricsMixIn, WebSocketRequestHandler):
            ...

    Any other request goes on to the rest of the class, its own ``do_GET`` included. To show them to some only, override
    ``send_metrics`` and call the inherited one.
    """

    #: The path, without a query; None: nowhere.
    metrics_path: ClassVar[str | None] = "/metrics"

    def send_metrics(self) -> None:
        """Answer with the server's counters; 501 under a server that has none."""
        stats = getattr(self.server, "stats", None)
        if not isinstance(stats, ServerStats):
            self.send_error(HTTPStatus.NOT_IMPLEMENTED, explain="This server counts nothing.")
            return
        body = format_metrics(stats).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Go on to what is inherited; a class that has its own need not call this."""
        inherited = getattr(super(), "do_GET", None)
        if inherited is not None:
            inherited()
        elif isinstance(self, WebSocketRequestHandler):
            self.ask_to_upgrade()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing at this path")

    def _method(self) -> Callable[[], object] | None:
        if self.command in ("GET", "HEAD") and split_target(self.path)[0] == self.metrics_path:
            return self.send_metrics
        return super()._method()


def format_metrics(stats: ServerStats) -> str:
    """Return a server's counters in the text exposition format of Prometheus, version 0.0.4."""
    return "".join(line + "\n" for family in FAMILIES for line in _lines(family, stats))


def _statuses(stats: ServerStats) -> dict[str, int]:
    failed = stats.handshakes_failed
    return {"none" if status is None else str(int(status)): count for status, count in failed.items()}


def _codes(stats: ServerStats) -> Counter[str]:
    """Return Closes received by code; of codes that peers choose only the ranges: a client could make thousands."""
    codes: Counter[str] = Counter()
    for code, count in stats.closes_received.items():
        codes[str(code) if code < 3000 else "3000-3999" if code < 4000 else "4000-4999"] += count
    return codes


def _quantiles(stats: ServerStats) -> dict[float, float]:
    ordered = sorted(stats.latencies)
    return {quantile: ordered[round(quantile * (len(ordered) - 1))] for quantile in QUANTILES if ordered}


class _Family(NamedTuple):
    """A metric: one value, or one for each value of its label."""

    name: str
    help: str
    read: Callable[[ServerStats], float | Mapping[Any, float]]
    label: str = ""

    @property
    def kind(self) -> str:
        return "counter" if self.name.endswith("_total") else "gauge"


FAMILIES = (
    _Family("sockets_accepted_total", "Sockets that were accepted and admitted.", lambda stats: stats.accepted),
    _Family("sockets_refused_total", "Sockets that were not admitted.", lambda stats: stats.refused, "reason"),
    _Family("sockets_gave_way_total", "Sockets cut while they waited, to make room.", lambda stats: stats.gave_way),
    _Family("sockets_open", "Sockets that are open, WebSockets and others.", lambda stats: stats.sockets_open),
    _Family("tls_handshakes_failed_total", "TLS handshakes that failed.", lambda stats: stats.tls_handshakes_failed),
    _Family(
        "requests_refused_total",
        "Requests refused, malformed ones and handshakes too, by the status.",
        lambda stats: stats.requests_refused,
        "status",
    ),
    _Family("handshakes_failed_total", "Opening handshakes that failed, by the status answered.", _statuses, "status"),
    _Family("connections_opened_total", "Connections that were opened.", lambda stats: stats.connections_opened),
    _Family("connections_open", "Connections that are open.", lambda stats: stats.connections_open),
    _Family(
        "connections_dropped_total", "Connections whose peers did not read.", lambda stats: stats.connections_dropped
    ),
    _Family("connection_seconds_total", "Seconds of all connections.", lambda stats: stats.connection_seconds),
    _Family("messages_received_total", "Messages received.", lambda stats: stats.messages_received),
    _Family("messages_sent_total", "Messages sent.", lambda stats: stats.messages_sent),
    _Family("bytes_received_total", "Bytes received on connections.", lambda stats: stats.bytes_received),
    _Family("bytes_sent_total", "Bytes sent on connections.", lambda stats: stats.bytes_sent),
    _Family("pings_received_total", "Pings received.", lambda stats: stats.pings_received),
    _Family("pings_sent_total", "Pings sent.", lambda stats: stats.pings_sent),
    _Family("closes_received_total", "Closes received; 1005: without a code.", _codes, "code"),
    _Family("closes_sent_total", "Closes sent; 1005: without a code.", lambda stats: stats.closes_sent, "code"),
    _Family("handler_errors_total", "Exceptions of handlers.", lambda stats: stats.handler_errors),
    _Family("round_trip_seconds", "Last round-trip times of open connections.", _quantiles, "quantile"),
)


def _lines(family: _Family, stats: ServerStats) -> Iterable[str]:
    name, value = PREFIX + family.name, family.read(stats)
    yield f"# HELP {name} {_escaped(family.help)}"
    yield f"# TYPE {name} {family.kind}"
    if isinstance(value, Mapping):
        for label, number in sorted(value.items(), key=lambda item: str(item[0])):
            quoted = _escaped(str(label)).replace('"', '\\"')
            yield f'{name}{{{family.label}="{quoted}"}} {number!r}'
    else:
        yield f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")

"""nginx in front of our server, as docs/howto/behind-nginx.rst sets it up."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from websocketserver import HandshakeError, PerMessageDeflate, WebSocketClient

from ..support import SOON, certificates, closed_port, running_server, wait_until
from .programs import Conversation, close_code, converse, require

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      close;
    }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


class Site(Conversation):
    def do_GET(self) -> None:
        body = b"an ordinary page"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def proxied(folder: Path, **attributes: Any) -> Iterator[tuple[int, int]]:
    """Yield the ports, plain and TLS, of nginx in front of a server of ours."""
    with running_server(Site, seen=[], **attributes) as server:
        process, ports = start_nginx(folder, server.port)
        with process:
            try:
                yield ports
            finally:
                process.terminate()


def start_nginx(folder: Path, backend: int) -> tuple[subprocess.Popen[bytes], tuple[int, int]]:
    """Return nginx, which runs, and its ports: others if somebody else has taken those that were free just before."""
    nginx = require("nginx", "/usr/sbin/nginx")
    certificate, key, _ = certificates().write(folder)
    config, pid = folder / "nginx.conf", folder / "nginx.pid"
    command = [nginx, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    for _ in range(5):
        port, tls_port = closed_port(), closed_port()
        config.write_text(
            CONFIG.format(
                folder=folder, port=port, tls_port=tls_port, certificate=certificate, key=key, backend=backend
            )
        )
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda process=process: pid.exists() or process.poll() is not None)
        if process.poll() is None:
            return process, (port, tls_port)
    raise AssertionError((folder / "error.log").read_text())


@pytest.mark.parametrize("compression", [None, PerMessageDeflate(threshold=0)])
def test_echo_through_the_proxy(tmp_path: Path, compression: PerMessageDeflate | None) -> None:
    with proxied(tmp_path) as (port, tls_port):
        for url, context in [
            (f"ws://127.0.0.1:{port}/", None),
            (f"wss://localhost:{tls_port}/", certificates().client),
        ]:
            with WebSocketClient(
                url, ssl_context=context, compression=compression, max_message_size=64 << 20
            ) as websocket:
                converse(websocket)
                assert websocket.ping(b"ours").wait(SOON) > 0


def test_close_codes_pass_the_proxy(tmp_path: Path) -> None:
    with proxied(tmp_path) as (port, _):
        with WebSocketClient(f"ws://127.0.0.1:{port}/") as websocket:
            websocket.send("close 4001 bye")
            assert close_code(websocket) == (4001, "bye")


def test_http_and_websocket_share_the_port(tmp_path: Path) -> None:
    with proxied(tmp_path) as (port, _):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SOON) as response:
            assert response.read() == b"an ordinary page"


def test_same_origin_is_judged_by_the_forwarded_host(tmp_path: Path) -> None:
    with proxied(tmp_path) as (port, _):
        url = f"ws://127.0.0.1:{port}/"
        with WebSocketClient(url, origin=f"http://127.0.0.1:{port}") as websocket:
            converse(websocket, ["hello"])
        with pytest.raises(HandshakeError) as caught:
            WebSocketClient(url, origin="http://evil.example")
        assert caught.value.status == 403

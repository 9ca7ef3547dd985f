"""The command line: serve a demo, a directory or a handler; connect to a server.

    python3 -m websocketserver [port]
    python3 -m websocketserver connect URL

Whatever goes wrong is one line on standard error, and whatever the user did wrong has exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import math
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler
from socketserver import BaseRequestHandler
from typing import Any, NoReturn
from urllib.parse import urlsplit

from .client import WebSocketClient
from .demo import DemoHandler, DemoPageHandler
from .exceptions import HandshakeError
from .server import ThreadingWebSocketServer
from .terminal import Terminal, say
from .tls import ServerSSLContext, client_context

__all__ = ["main"]

PROGRAM = "python3 -m websocketserver"
MAX_MESSAGE = 64 << 20  # bytes of one message that connect prints
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


class Failure(Exception):
    """Something that ends the program, in one line for the user."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, sys.argv's by default; return the exit code.

    To be called in the main thread. Raises SystemExit for --help and unknown options, as argparse does.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["connect"]:
            return connect(_connect_parser().parse_args(arguments[1:]))
        return serve(_serve_parser().parse_args(arguments))
    except Failure as failure:
        say(f"{PROGRAM}: error: {failure}")
        return failure.exit_code
    except KeyboardInterrupt:
        _end_line("Interrupted.")
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help tells more)\n")


def _end_line(text: str) -> None:
    """Print the last line, below the ^C that a terminal shows."""
    if sys.stderr.isatty():
        print(file=sys.stderr)
    say(text)


# Serve


def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code."""
    handler = _handler(options)
    context = _server_context(options)
    server = _server(options, handler, context)
    server.shutdown_timeout = 1  # Ctrl-C ends at once: pages answer in milliseconds, the rest is cut
    if context is not None and hasattr(signal, "SIGHUP"):
        _reload_on_hangup(server)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: _write_error(server.dump()))
    with server:
        print(f"Serving {_what(options)} at {_url(server, handler, options)} (Ctrl-C to stop)", flush=True)
        report = server.run()
    _end_line("Stopped.")
    if report.running:  # in a handler of the user's
        say(str(report))
    return 0


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Serve a demo page and its WebSocket: connection state, echo, round trips, chat.",
        epilog=f'''To talk to a WebSocket server from here: "{PROGRAM} connect URL"; see "{PROGRAM} connect --help".
            At SIGUSR1 it writes all its connections, and what all threads do, to standard error.''',
    )
    add = parser.add_argument
    add("port", nargs="?", type=_port, default=8000, help="port to listen on, 0 for any free one (default: 8000)")
    add("-b", "--bind", metavar="ADDRESS", default="", help="address to listen on (default: all interfaces)")
    add(
        "-d",
        "--directory",
        type=_directory,
        help="serve the files of this directory instead of the demo page; the WebSocket stays, at every path",
    )
    add(
        "--handler",
        metavar="MODULE:CLASS",
        help="serve with this handler class, found as Python finds modules from here, instead of the demo's",
    )
    add("--tls-cert", metavar="PATH", help="certificate chain (PEM): serve https and wss; read anew at SIGHUP")
    add("--tls-key", metavar="PATH", help="private key (PEM), if the certificate's file does not hold it")
    add("--tls-password-file", metavar="PATH", help="file with the private key's password")
    add("--tls-client-ca", metavar="PATH", help="authorities (PEM): clients must present a certificate of theirs")
    return parser


def _write_error(text: str) -> None:
    """Write to standard error, also from a signal handler that has interrupted somebody who was writing there."""
    data = text.encode("utf-8", "backslashreplace")
    with suppress(OSError):
        while data:
            data = data[os.write(2, data) :]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number (0 to 65535)")
    return int(text)


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text


def _handler(options: argparse.Namespace) -> Callable[..., Any]:
    """Return the handler class, with files behind it where a directory is given."""
    handler = None if options.handler is None else _load(options.handler)
    if options.directory is None:
        return handler or DemoPageHandler
    handler = handler or DemoHandler
    if not isinstance(handler, type):
        raise Failure(f"--directory needs a handler class, and {options.handler} is none", 2)
    if not issubclass(handler, SimpleHTTPRequestHandler):
        handler = type(handler.__name__, (handler, SimpleHTTPRequestHandler), {})
    return functools.partial(handler, directory=options.directory)


def _load(name: str) -> Any:
    """Return what MODULE:CLASS names."""
    module_name, _, attributes = name.partition(":")
    if not module_name or not attributes:
        raise Failure(f"--handler must be MODULE:CLASS, not {name!r}", 2)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, ImportError) else f" ({place.filename}, line {place.lineno})"
        raise Failure(f"cannot import {module_name}: {type(error).__name__}: {error}{where}", 2) from None
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise Failure(f"module {module_name} has no {attributes}", 2)
        found = getattr(found, attribute)
    if not callable(found) or isinstance(found, type) and not issubclass(found, BaseRequestHandler):
        raise Failure(f"{name} is not a handler class", 2)
    return found


def _server_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key or options.tls_password_file or options.tls_client_ca:
            raise Failure("--tls-key, --tls-password-file and --tls-client-ca need --tls-cert", 2)
        return None
    password = None if options.tls_password_file is None else functools.partial(_password, options.tls_password_file)
    try:
        return ServerSSLContext(options.tls_cert, options.tls_key, password, client_ca=options.tls_client_ca)
    except (OSError, UnicodeError) as error:
        raise Failure(_unusable(error)) from None


def _password(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\r\n")


def _unusable(error: OSError | UnicodeError) -> str:
    """Return what is wrong with a file for TLS."""
    filename = getattr(error, "filename", None)
    return str(error) if filename is None else f"cannot read {filename}: {error.strerror}"  # type: ignore[union-attr]


def _reload_on_hangup(server: ThreadingWebSocketServer) -> None:
    """Read the certificate anew at SIGHUP, as daemons do; but end where it says that the terminal is gone."""
    at_terminal = sys.stderr.isatty()

    def reload(*_: object) -> None:
        if at_terminal and not sys.stderr.isatty():
            raise SystemExit(0)  # there is nobody to tell
        try:
            server.reload_certificate()
        except (OSError, UnicodeError) as error:
            server.log_message("the certificate stays as it was: %s", _unusable(error))
        else:
            server.log_message("the certificate was read anew")

    signal.signal(signal.SIGHUP, reload)


def _server(
    options: argparse.Namespace, handler: Callable[..., Any], context: ssl.SSLContext | None
) -> ThreadingWebSocketServer:
    try:
        return ThreadingWebSocketServer((options.bind, options.port), handler, ssl_context=context)
    except (OSError, UnicodeError) as error:
        where = f"{options.bind or 'all interfaces'}, port {options.port}"
        hint = "; another port may be free, 0 takes one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise Failure(f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}{hint}") from None


def _what(options: argparse.Namespace) -> str:
    what = options.handler or ("echo and chat" if options.directory else "the demo")
    return f"{what} and the files of {options.directory}" if options.directory else what


def _url(server: ThreadingWebSocketServer, handler: Callable[..., Any], options: argparse.Namespace) -> str:
    """Return a URL of the server that can be clicked on."""
    host, port = str(server.server_address[0]), server.server_port
    if host in ("", "0.0.0.0", "::"):
        host = "localhost"
    if ":" in host:
        host = f"[{host}]"
    scheme = "http" if options.directory or hasattr(handler, "do_GET") else "ws"
    return f"{scheme}{'s' if options.tls_cert else ''}://{host}:{port}/"


# Connect


def connect(options: argparse.Namespace) -> int:
    """Connect the terminal to a server until the connection is over; return the exit code."""
    with _client(options) as websocket:
        chosen = f" with subprotocol {websocket.subprotocol}" if websocket.subprotocol else ""
        say(f"Connected to {_without_password(options.url)}{chosen}")
        return Terminal(websocket, binary=options.binary, wait=options.wait).run()


def _connect_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{PROGRAM} connect",
        description="""Send each line of standard input as a text message and print each message that arrives on a
            line of its own; binary messages are printed in hexadecimal. Everything else goes to standard error.
            Control characters are made visible where standard output is a terminal. At the end of standard
            input the connection is closed once nothing has arrived for a while (--wait), at a terminal at once.""",
        epilog="""Exit code: 0 after a normal close (1000, 1001 or no code); 1 if the connection failed or ended in
            another way; 2 for wrong arguments; 130 after Ctrl-C.""",
    )
    add = parser.add_argument
    add("url", metavar="URL", help="ws://host:port/path or wss://host:port/path")
    more = "one more header; repeatable"
    add("-H", "--header", metavar="'NAME: VALUE'", type=_header, action="append", default=[], help=more)
    add("--subprotocol", metavar="NAME", action="append", default=[], help="offer a subprotocol; repeatable")
    add("--origin", help="send this Origin, as a browser would")
    add("--insecure", action="store_true", help="accept any certificate")
    add(
        "--binary",
        action="store_true",
        help="""send standard input as it comes, up to 64 KiB at a time, in binary messages, and write messages as
            they are, with nothing between them (to a terminal still in hexadecimal)""",
    )
    add(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
        help="""after the end of standard input, close when nothing has arrived for so long, so that answers to the
            last lines are not lost (default: 1; inf: leave closing to the server)""",
    )
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not name.strip() or not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _client(options: argparse.Namespace) -> WebSocketClient:
    url = _websocket_url(options.url)
    insecure = options.insecure and url.lower().startswith("wss:")  # else there is no certificate
    try:
        return WebSocketClient(
            url,
            subprotocols=options.subprotocol,
            origin=options.origin,
            headers=options.header,
            ssl_context=client_context(verify=False) if insecure else None,
            max_message_size=MAX_MESSAGE,
        )
    except HandshakeError as error:
        raise Failure(_refusal(error)) from None
    except OSError as error:  # before ValueError: a certificate that fails is both
        raise Failure(_unreachable(options.url, error)) from None
    except (TypeError, ValueError) as error:
        raise Failure(str(error), 2) from None


def _websocket_url(url: str) -> str:
    """Return the URL; one copied from a browser's address line means its WebSocket."""
    return "ws" + url[4:] if url.lower().startswith(("http://", "https://")) else url


def _refusal(error: HandshakeError) -> str:
    """Return what went wrong, with the server's explanation if it is for people."""
    plain = error.headers.get("Content-Type", "").startswith("text/plain")
    lines = error.body.decode("utf-8", "replace").strip().splitlines() if plain else []
    if not lines:
        return str(error)
    status, _, explanation = lines[0][:200].partition(": ")
    return f"{error}: {explanation if status.startswith(str(error.status)) else lines[0][:200]}"


def _unreachable(url: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted: {error.verify_message} (--insecure accepts any)"
    else:
        why = error.strerror or str(error)
    return f"cannot connect to {_without_password(url)}: {why}"


def _without_password(url: str) -> str:
    userinfo, at, host = urlsplit(url).netloc.rpartition("@")
    return url.replace(userinfo + at + host, host, 1) if at else url

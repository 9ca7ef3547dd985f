"""A connection at the terminal: what is typed or piped in goes out, what arrives is printed.

Messages go to standard output, everything else to standard error. One thread prints, another reads
standard input; it is a daemon, because nothing can wake it from there.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator

from .connection import WebSocketConnection
from .exceptions import ConnectionClosed

__all__ = ["Terminal", "printable", "say"]

CHUNK = 1 << 16
BREAK_OFF = 0.5  # seconds for the closing handshake after Ctrl-C

# What a terminal might obey: C0 without tab and newline, DEL, C1, and the marks that turn the direction of writing.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NORMAL = (1000, 1001, 1005)  # 1005: a complete closing handshake that named no code


class Terminal:
    """The standard streams at one end of a connection.

    ``binary`` sends standard input as it is, in binary messages, and writes messages as they are.
    ``wait`` is how many seconds nothing may arrive after the end of standard input before the connection
    is closed: not every server answers in the order of what it got, so a Close right behind the last line
    might overtake the answer to it.
    """

    def __init__(self, websocket: WebSocketConnection, *, binary: bool = False, wait: float = 1.0) -> None:
        self._websocket = websocket
        self._binary = binary
        self._wait = min(wait, threading.TIMEOUT_MAX)
        self._to_terminal = sys.stdout.isatty()
        self._heard = threading.Event()  # set at each message, cleared by the reading thread only
        self._over = False
        self._failed = False

    def run(self) -> int:
        """Talk until the connection is over; return 0 after a normal close, else 1."""
        threading.Thread(target=self._feed, name="websocketserver-stdin", daemon=True).start()
        try:
            while True:
                self._print(self._websocket.recv())
                self._heard.set()
        except ConnectionClosed as closed:
            say(f"Closed: {closed.code} {closed.reason}".rstrip())
            return 0 if closed.code in _NORMAL and not self._failed else 1
        except OSError as error:
            return self._stop_printing(error)
        except KeyboardInterrupt:
            self._break_off()
            raise
        finally:
            self._over = True
            self._heard.set()

    def _print(self, message: str | bytes) -> None:
        sys.stdout.buffer.write(self._formatted(message))
        sys.stdout.buffer.flush()

    def _formatted(self, message: str | bytes) -> bytes:
        """Return what to write for a message: raw with --binary, else a line; to a terminal nothing it obeys."""
        if self._binary and not self._to_terminal:
            return message.encode() if isinstance(message, str) else message
        if isinstance(message, bytes):
            message = message.hex()
        elif self._to_terminal:
            message = printable(message)
        return message.encode() + b"\n"

    def _stop_printing(self, error: OSError) -> int:
        """Nobody reads standard output any more, or it is full."""
        if not isinstance(error, BrokenPipeError):
            say(f"error: cannot write to standard output: {error.strerror}")
        with open(os.devnull, "wb") as nowhere:  # or the interpreter complains when it flushes at its end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        self._break_off()
        return 1

    def _break_off(self) -> None:
        try:
            self._websocket.close(1001, timeout=BREAK_OFF)
        finally:
            self._websocket.abort()

    # The reading thread

    def _feed(self) -> None:
        """Send what comes from standard input; after its end wait for the answers and close."""
        try:
            for message in self._input():
                self._websocket.send(message)
            self._wait_for_quiet()
        except ConnectionClosed:
            return
        except UnicodeDecodeError:
            self._fail("standard input is not UTF-8; --binary sends it as it is")
        except TimeoutError as error:
            self._fail(f"cannot send: {error}")
        except OSError as error:
            self._fail(f"cannot read standard input: {error.strerror}")
        self._websocket.close()

    def _input(self) -> Iterator[str | bytes]:
        return _chunks() if self._binary else _lines()

    def _wait_for_quiet(self) -> None:
        leaving = sys.stdin is not None and sys.stdin.isatty()  # somebody has pressed Ctrl-D
        while not (self._over or leaving) and self._heard.wait(self._wait):
            self._heard.clear()

    def _fail(self, why: str) -> None:
        self._failed = True
        say(f"error: {why}")


def _chunks() -> Iterator[bytes]:
    """Yield standard input as it comes.

    Past sys.stdin's buffer: its lock, held by a thread that waits, would crash the interpreter at its end.
    """
    if sys.stdin is None:  # closed from the start; its number may belong to our socket by now
        return
    while data := os.read(sys.stdin.fileno(), CHUNK):
        yield data


def _lines() -> Iterator[str]:
    """Yield the lines of standard input without their ends."""
    line = bytearray()
    for chunk in _chunks():
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            line += part
            yield line.removesuffix(b"\r").decode()
            line.clear()
        line += rest
    if line:
        yield line.decode()


def printable(text: str) -> str:
    """Return the text with all that a terminal might obey replaced by its number; tab and newline stay."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def say(text: str) -> None:
    """Print one line to standard error, in one piece whatever other threads print."""
    line = printable(text).replace("\n", "\\n")
    print(line + "\n", end="", file=sys.stderr, flush=True)

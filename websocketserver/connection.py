"""WebSocketConnection: what both sides work with once the opening handshake is done.

The same class on the server and on the client. Everything may be called from any thread at any time.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from types import TracebackType
from typing import TypeVar

from .channel import SLOW
from .counters import Stats
from .deadline import HASTE, Deadline
from .exceptions import ConnectionClosed, ConnectionClosedOK
from .express import ready_at_once, receive_at_once
from .keepalive import timer
from .keys import new_key
from .protocol.endpoint import Receiver, Role
from .protocol.events import AppEvent, Message
from .protocol.extensions import Codec
from .protocol.handshake import Request
from .protocol.headers import ResponseHead, read_response_head
from .protocol.sender import Sender
from .protocol.utf8 import decode as decode_utf8
from .pump import NEVER, gatherers
from .sending import SendingChannel
from .settings import Settings
from .transport import make_transport

__all__ = ["Role", "State", "WebSocketConnection"]

Self = TypeVar("Self", bound="WebSocketConnection")  # typing has it from 3.11 on


class State(Enum):
    """Where a connection stands (RFC 6455, section 7.1); CONNECTING is a client that has still to connect."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class WebSocketConnection(SendingChannel):
    """One WebSocket connection. Thread-safe: any thread may send, receive and close at any time.

    Messages are str for text and bytes for binary. Time-outs are seconds, None waits for ever; a
    TimeoutError leaves the connection usable unless it says that it was aborted. Once the connection has
    ended and what came before the end was read, ConnectionClosed is raised.

    ``with`` closes the connection at the end of its block; iterating over it gives message after
    message until the connection ends normally (1000 or 1001), and raises ConnectionClosed otherwise.
    """

    __slots__ = {  # what help() says of each
        "__dict__": None,
        "__weakref__": None,
        "_local_address": None,
        "_response": None,
        "_sock": None,
        "remote_address": "The peer's address, as socket.getpeername() gave it, or the server that knows better.",
        "request": "The opening request (Request), on the server.",
        "subprotocol": "The subprotocol agreed on (str), or None.",
    }

    def __init__(
        self,
        sock: socket.socket,
        *,
        role: Role,
        settings: Settings = Settings(),  # noqa: B008 (immutable)
        request: Request | None = None,
        response: ResponseHead | bytes | None = None,
        subprotocol: str | None = None,
        codecs: Sequence[Codec] = (),
        received: bytes = b"",
        hooks: frozenset[str] = frozenset(),
        fragments: bool = False,
        remote_address: object = None,
    ) -> None:
        """Take over a connected socket after the 101.

        ``received`` are bytes that were read with the handshake and belong behind it; ``hooks`` tells
        which of "ping" and "pong" ``next_event`` returns; with ``fragments`` it returns Fragment
        events in place of Message events.
        """
        receiver = Receiver(
            role,
            max_message_size=settings.max_message_size,
            max_frame_size=settings.max_frame_size,
            max_fragments=settings.max_fragments,
            codecs=codecs,
            fragments=fragments,
        )
        key = new_key if role is Role.CLIENT else None
        sender = Sender(key, codecs=codecs, fragment_size=settings.fragment_size)
        transport = make_transport(sock, nagle=not settings.disable_nagle_algorithm, keepalive=settings.tcp_keepalive)
        super().__init__(transport, role, receiver, sender, settings, hooks, codecs)
        self.request = request
        self._response = response
        self.subprotocol = subprotocol
        self.remote_address = _address(sock.getpeername) if remote_address is None else remote_address
        self._sock = sock
        self._local_address: object = None
        if received:
            receiver.feed(received)
            self._unparsed = True
        timer.schedule(self, self._next_visit(self._opened_at))  # last: on a slow machine it comes before we go on

    # Receiving

    def recv(self, timeout: float | None = None, decode: bool = True) -> str | bytes:
        """Return the next message: str for text, bytes for binary.

        Waits up to ``timeout`` seconds (None: for ever; 0: looks what is there), then raises
        TimeoutError, and nothing is lost. With ``decode=False`` text comes as bytes of valid UTF-8. Raises
        ConnectionClosed once the connection has ended and all that came before was returned.
        """
        deadline = Deadline(timeout) if timeout is not None else NEVER
        self._receiver.decode_text = decode
        while True:
            event = (receive_at_once(self, False) if timeout is None else None) or self._next(deadline)
            if isinstance(event, Message):
                return _as_asked(event, decode)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages; end with the connection where it ends normally."""
        try:
            while True:
                yield self.recv()
        except ConnectionClosedOK:
            return

    def next_event(self, timeout: float | None = None) -> AppEvent:
        """Return the next Message, or one of the other events asked for at the beginning, in wire order.

        Waits and raises as ``recv``.
        """
        return self._next(Deadline(timeout) if timeout is not None else NEVER)

    def events(self) -> Iterator[AppEvent]:
        """Iterate over the events as ``next_event`` gives them, until ConnectionClosed is raised.

        While the next event is already here, what the iterating thread sends is gathered: it leaves with
        its last answer, at 64 KiB, before that thread waits for this connection, or 2 to 4 ms later.
        """
        thread = threading.get_ident()
        try:
            while True:
                event = receive_at_once(self, True) or self._next(NEVER, ahead=True)
                if self._inbox and self._sent is None:
                    self._gathering = thread
                    gatherers[thread] = self
                    yield event
                else:
                    self._gathering = None
                    yield event
                    if self._output.gathered or self._guests:
                        self._gathering = thread
                        self._stop_gathering(NEVER)
        finally:  # also where the iterating thread takes no more
            self._leave_gathering(thread)

    def _next_ready(self, read: bool) -> AppEvent | None:
        return (ready_at_once(self, True) if read or self._inbox else None) or super()._next_ready(read)

    # Closing

    def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """Close the connection: closing handshake (RFC 6455, section 7.1), then the end of the stream.

        Returns when all is over, after ``timeout`` seconds at the latest (None: ``close_timeout``): what has
        not ended by then is cut. Where the peer began the closing, this completes it. Does nothing on a
        connection that is closed. Messages received before stay readable. Raises ValueError or TypeError
        for a code or reason that may not be sent.
        """
        deadline = Deadline(self.settings.close_timeout if timeout is None else timeout)
        if self._passes_on(self.close, code, reason, timeout):
            return
        self.start_close(code, reason)
        if not self._over:
            self._end(deadline)

    def abort(self) -> None:
        """End the connection at once, without a closing handshake; never blocks."""
        if not self._passes_on(self.abort):
            self._cut("aborted here")

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, ConnectionClosed):
            self.close()
        elif issubclass(kind, Exception):
            self.close(1011)
        else:  # Ctrl-C and its like: be quick
            self.close(1001, timeout=min(HASTE, self.settings.close_timeout))

    # Looking

    @property
    def response(self) -> ResponseHead | None:
        """The server's answer to the opening request (ResponseHead)."""
        if isinstance(self._response, bytes):
            self._response = read_response_head(io.BytesIO(self._response).readline)
        return self._response

    @property
    def local_address(self) -> object:
        """The address on this side, as socket.getsockname() gives it; once closed, None if nobody has asked before."""
        if self._local_address is None:
            self._local_address = _address(self._sock.getsockname)
        return self._local_address

    @property
    def state(self) -> State:
        """Whether the connection is OPEN, CLOSING or CLOSED."""
        if self._over:
            return State.CLOSED
        closing = self._sent is not None or self._input_over or self._output.broken
        return State.CLOSING if closing else State.OPEN

    @property
    def close_code(self) -> int | None:
        """The connection's close code (RFC 6455, section 7.1.5); None while it is open, 1006 if no Close came."""
        if self._received is not None:
            return self._received.code
        return 1006 if self._input_over else None

    @property
    def close_reason(self) -> str | None:
        """The peer's reason, or what went wrong where the peer gave none; None while the connection is open."""
        if self._received is not None:
            return self._received.reason
        return self._detail if self._input_over else None

    @property
    def stats(self) -> Stats:
        """Counters so far (Stats)."""
        received, sent, ended_at = self._received, self._sent, self._ended_at
        return Stats(
            self._bytes_received,
            self._output.bytes_sent,
            self._messages_received,
            self._messages_sent,
            self._pings_received,
            self._pings.sent,
            (time.monotonic() if ended_at is None else ended_at) - self._opened_at,
            self.latency,
            None if received is None else received.code,
            None if sent is None else sent.code,
            self._detail.startswith(SLOW),
        )

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed: for waiting, not for reading or writing."""
        return self._transport.fileno()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.role.value} {self.remote_address} {self.state.value}>"


def _address(get: object) -> object:
    try:
        return get()  # type: ignore[operator]
    except OSError:  # the peer is gone already
        return None


def _as_asked(message: Message, as_text: bool) -> str | bytes:
    """Return a message's data as the reader wants its text: it may have been read when another asked differently."""
    data = message.data
    if not message.text or isinstance(data, str) is as_text:
        return data
    return data.encode() if isinstance(data, str) else decode_utf8(data)

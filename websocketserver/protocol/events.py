"""What an endpoint tells its connection: the events of the receiving half.

Values only; a connection decides what becomes of them.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["AppEvent", "Closed", "Event", "Fragment", "Message", "Ping", "Pong"]


class Message(NamedTuple):
    """A whole data message (RFC 6455, section 5.6); text has been checked to be UTF-8.

    The data of a text message is a str where decoding it was the check, else bytes.
    """

    data: str | bytes
    text: bool


class Fragment(NamedTuple):
    """A piece of a data message, as it arrived: not necessarily a whole frame (RFC 6455, section 5.4).

    Pieces of text never split a character; ``fin`` marks the last piece of its message.
    """

    data: str | bytes
    text: bool
    fin: bool


class Ping(NamedTuple):
    """A Ping (RFC 6455, section 5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """A Pong, asked for or not (RFC 6455, section 5.5.3)."""

    payload: bytes


class Closed(NamedTuple):
    """The peer's Close (RFC 6455, section 5.5.1); code 1005 where it carried none."""

    code: int
    reason: str


AppEvent = Message | Fragment | Ping | Pong  # what may reach the application
Event = AppEvent | Closed

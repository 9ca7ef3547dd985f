"""Settings: what one connection is allowed and how it behaves, checked once at the door."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from .protocol.deflate import PerMessageDeflate
from .protocol.extensions import Extension

__all__ = ["DEFAULT_COMPRESSION", "Settings", "check_seconds", "class_value", "shared_settings"]

DEFAULT_COMPRESSION = PerMessageDeflate()


@dataclass(frozen=True)
class Settings:
    """The settings of a connection; immutable, so one may serve many connections in any thread.

    Sizes are bytes, times seconds, None means no limit. Raises TypeError or ValueError for a
    value that makes no sense, and says which would.
    """

    max_message_size: int | None = 1 << 20
    max_frame_size: int | None = None
    max_fragments: int | None = 4096
    max_queue_size: int | None = 1 << 20
    fragment_size: int | None = None
    compression: Extension | None = DEFAULT_COMPRESSION
    extensions: Sequence[Extension] = ()
    ping_interval: float | None = 20
    ping_timeout: float | None = 20
    send_timeout: float | None = 30
    close_timeout: float = 5
    tcp_keepalive: float | None = None
    disable_nagle_algorithm: bool = True

    def __post_init__(self) -> None:
        for name in ("max_message_size", "max_frame_size", "max_queue_size"):
            _check_size(name, getattr(self, name), 0)
        for name in ("max_fragments", "fragment_size"):
            _check_size(name, getattr(self, name), 1)
        for name in ("ping_interval", "ping_timeout", "send_timeout", "tcp_keepalive"):
            check_seconds(name, getattr(self, name))
        if self.close_timeout is None:
            raise TypeError("close_timeout must be a number of seconds: no close may wait for ever")
        check_seconds("close_timeout", self.close_timeout)
        if not isinstance(self.disable_nagle_algorithm, bool):
            raise TypeError(f"disable_nagle_algorithm must be True or False, not {self.disable_nagle_algorithm!r}")
        for extension in self.all_extensions:
            if not isinstance(extension, Extension):
                raise TypeError(f"an extension must be an Extension instance, not {extension!r}")

    @property
    def all_extensions(self) -> tuple[Extension, ...]:
        """The extensions in the order of negotiation: ``extensions``, then ``compression``."""
        return (*self.extensions, self.compression) if self.compression is not None else tuple(self.extensions)

    @classmethod
    def of(cls, handler: object) -> Settings:
        """Return the settings that an object has as attributes of the same names, defaults for the rest."""
        try:
            values: tuple[Any, ...] = _get_all(handler)
        except AttributeError:
            values = tuple(getattr(handler, name, default) for name, default in _DEFAULTS)
        return shared_settings(*values)

    @classmethod
    def check(cls, handler: type) -> None:
        """Raise TypeError or ValueError where a class has attributes of these names that make no sense.

        What an instance has yet to be asked for, such as a property, is left to ``of``.
        """
        cls(**{name: class_value(handler, name, default) for name, default in _DEFAULTS})


_DEFAULTS = tuple((field.name, field.default) for field in fields(Settings))
_get_all = attrgetter(*(name for name, _ in _DEFAULTS))
_settings = lru_cache(256, typed=True)(Settings)  # True is not 1, though they are equal


def shared_settings(*values: Any) -> Settings:
    """Return Settings of these values: the same for many connections, whose values need no second look."""
    try:
        return _settings(*values)
    except TypeError:  # unhashable, such as a list of extensions, or wrong, as is found below
        pass
    return Settings(*values)


def class_value(kind: type, name: str, default: Any) -> Any:
    """Return an attribute of a class; the default where there is none, or only instances have it, as for a property."""
    value = getattr(kind, name, default)
    return default if hasattr(type(value), "__get__") else value


def _check_size(name: str, value: object, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int or None, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, or None for no limit, not {value}")


def check_seconds(name: str, value: object) -> None:
    """Raise TypeError or ValueError for what cannot be a number of seconds, or None for no limit."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be more than 0 seconds, or None for never, not {value}")

"""Settings: checked at the door, and read from handlers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from websocketserver.handler import WebSocketRequestHandler
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.extensions import Extension
from websocketserver.settings import Settings

SIZES = ["max_message_size", "max_frame_size", "max_queue_size", "max_fragments", "fragment_size"]
TIMES = ["ping_interval", "ping_timeout", "send_timeout"]


class Private(Extension):
    name = "x-private"


def test_the_defaults_are_those_that_are_documented() -> None:
    assert vars(Settings()) == {
        "max_message_size": 1024 * 1024,
        "max_frame_size": None,
        "max_fragments": 4096,
        "max_queue_size": 1024 * 1024,
        "fragment_size": None,
        "compression": PerMessageDeflate(),
        "extensions": (),
        "ping_interval": 20,
        "ping_timeout": 20,
        "send_timeout": 30,
        "close_timeout": 5,
        "tcp_keepalive": None,
        "disable_nagle_algorithm": True,
    }


def test_they_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().close_timeout = 1  # type: ignore[misc]


class TestChecks:
    @pytest.mark.parametrize("name", SIZES + TIMES)
    def test_none_is_no_limit(self, name: str) -> None:
        assert getattr(Settings(**{name: None}), name) is None

    @pytest.mark.parametrize("name", SIZES)
    def test_sizes(self, name: str) -> None:
        least = 1 if name in ("max_fragments", "fragment_size") else 0
        for value in (least, 1, 1 << 70):
            assert getattr(Settings(**{name: value}), name) == value
        with pytest.raises(ValueError, match=f"{name} must be at least {least}"):
            Settings(**{name: least - 1})

    @pytest.mark.parametrize("name", SIZES)
    @pytest.mark.parametrize("value", ["1", 1.0, True, b"1", math.nan])
    def test_sizes_of_another_type(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError, match=name):
            Settings(**{name: value})

    @pytest.mark.parametrize("name", [*TIMES, "close_timeout"])
    @pytest.mark.parametrize("value", [0.001, 1, 86400.0])
    def test_times(self, name: str, value: float) -> None:
        assert getattr(Settings(**{name: value}), name) == value

    @pytest.mark.parametrize("name", [*TIMES, "close_timeout"])
    @pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, -math.inf])
    def test_times_that_make_no_sense(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=name):
            Settings(**{name: value})

    @pytest.mark.parametrize("name", [*TIMES, "close_timeout"])
    @pytest.mark.parametrize("value", ["1", True, b"1", [1]])
    def test_times_of_another_type(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError, match=name):
            Settings(**{name: value})

    def test_a_close_always_ends(self) -> None:
        with pytest.raises(TypeError, match="close_timeout"):
            Settings(close_timeout=None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("options", [{"compression": True}, {"extensions": [Private]}, {"extensions": "x"}])
    def test_what_is_no_extension(self, options: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match="extension"):
            Settings(**options)


class TestExtensions:
    def test_compression_comes_last(self) -> None:
        private, compression = Private(), PerMessageDeflate()
        assert Settings(extensions=[private], compression=compression).all_extensions == (private, compression)
        assert Settings(extensions=[private], compression=None).all_extensions == (private,)
        assert Settings(compression=None).all_extensions == ()


class TestOf:
    def test_the_attributes_of_a_class_or_an_instance(self) -> None:
        class Handler:
            max_message_size = 5
            close_timeout = 1.5
            compression = None

        handler = Handler()
        assert (
            Settings.of(Handler)
            == Settings.of(handler)
            == Settings(max_message_size=5, close_timeout=1.5, compression=None)
        )
        handler.max_message_size = 6
        assert Settings.of(handler).max_message_size == 6

    def test_nothing_is_the_defaults(self) -> None:
        assert Settings.of(object()) == Settings()

    def test_one_for_all_that_say_the_same(self) -> None:
        class Handler:
            max_message_size = 5

        assert Settings.of(Handler()) is Settings.of(Handler())

    def test_values_that_are_merely_equal_are_no_excuse(self) -> None:
        assert Settings.of(type("Handler", (), {"max_fragments": 1})).max_fragments == 1
        with pytest.raises(TypeError, match="max_fragments"):
            Settings.of(type("Handler", (), {"max_fragments": True}))

    def test_lists_of_extensions(self) -> None:
        class Handler:
            extensions = [Private()]

        assert Settings.of(Handler).all_extensions[0] is Handler.extensions[0]

    def test_mistakes_are_told(self) -> None:
        class Handler:
            max_message_size = "5"

        for _ in range(2):
            with pytest.raises(TypeError, match="max_message_size"):
                Settings.of(Handler)

    def test_many_different_ones_are_not_kept_for_ever(self) -> None:
        for size in range(1000):
            assert Settings.of(type("Handler", (), {"max_message_size": size})).max_message_size == size


class TestCheck:
    def test_mistakes_are_told_where_a_handler_is_defined(self) -> None:
        with pytest.raises(TypeError, match="max_message_size must be an int or None, not '1MB'"):

            class Handler(WebSocketRequestHandler):
                max_message_size = "1MB"  # type: ignore[assignment]

        with pytest.raises(ValueError, match="ping_interval"):

            class Other(WebSocketRequestHandler):
                ping_interval = -1

    def test_what_an_instance_is_asked_for_is_not_looked_at(self) -> None:
        class Handler(WebSocketRequestHandler):
            @property
            def max_message_size(self) -> int:  # type: ignore[override]
                return 5

        handler = Handler.__new__(Handler)
        assert Settings.of(handler).max_message_size == 5

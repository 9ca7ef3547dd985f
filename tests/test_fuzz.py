"""The fuzzer's targets: what is in the corpus passes, and a fault in either twin, or in what is fuzzed, is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from websocketserver.exceptions import ProtocolError
from websocketserver.protocol import deflate, grammar, headers

from .fuzz import targets
from .fuzz.__main__ import NAMES, ROOT, corpus, replay
from .protocol.twins import PYTHON


def test_the_command_knows_all_targets() -> None:
    assert tuple(targets.TARGETS) == NAMES
    assert {path.name for path in (Path(targets.__file__).parent / "corpus").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_passes(name: str) -> None:
    assert replay(name, corpus(name)) >= 8


def test_the_command_replays() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--replay"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "all is well" in done.stdout, done.stderr


def test_another_target_is_refused() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "engine"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "no such target: engine" in done.stderr


def find(name: str) -> str:
    """Return what the target says of its corpus; fails if it finds nothing."""
    with pytest.raises(Exception) as caught:  # any exception is a finding
        replay(name, corpus(name))
    return f"{type(caught.value).__name__}: {caught.value}"


class TestFaultsAreFound:
    def test_text_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PYTHON["utf8"].Utf8Validator, "feed", lambda self, data, final=False: None)
        assert "verdicts" in find("text")

    def test_a_limit_that_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        decode = deflate.Decompressor.decode
        monkeypatch.setattr(deflate.Decompressor, "decode", lambda self, data, fin, _: decode(self, data, fin, None))
        assert "more than the limit" in find("inflater")

    def test_an_exception_that_is_not_documented(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(targets, "check_request", lambda head: head.fields["cookie"])
        assert find("request").startswith("KeyError")

    def test_a_head_that_depends_on_how_it_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        feed = headers.RequestParser.feed
        monkeypatch.setattr(headers.RequestParser, "feed", lambda self, data: None if data[30:] else feed(self, data))
        assert "half of one" in find("request")

    @pytest.mark.parametrize("name, step", [("request", "split_request"), ("response", "split_response")])
    def test_a_head_that_is_taken_too_quickly(self, name: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        split = getattr(headers, step)

        def split_hastily(data: bytes, *limits: Any) -> Any:
            first, end, lines = data.partition(b"\r\n")
            return split(first + end + lines.replace(b"\r\n ", b"   ").lower(), *limits)

        monkeypatch.setattr(headers, step, split_hastily)
        assert "head" in find(name)

    def test_a_header_that_nobody_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        add = headers.add_header
        monkeypatch.setattr(headers, "add_header", lambda *there: add(*there[:-1], there[-1] + "!"))
        monkeypatch.setattr(headers, "split_response", lambda *head: None)
        assert "nobody has sent" in find("response")

    def test_a_value_that_does_not_survive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(grammar, "_unquote", lambda quoted: quoted)
        assert find("values").startswith("ValueError")

    if targets.HAVE_C:  # else there is one twin only

        def test_twins_that_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
            class Parser(PYTHON["frames"].FrameParser):  # type: ignore[misc,name-defined]
                def next_frame(self) -> Any:
                    frame = super().next_frame()
                    return frame and frame._replace(payload=frame.payload.replace(b"H", b"J"))

            monkeypatch.setattr(PYTHON["frames"], "FrameParser", Parser)
            assert "twins' frames" in find("parser")
            assert "twins' events" in find("messages")

        def test_another_word_of_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
            def _check_length(length: int, size: int) -> None:
                if length < (126 if size == 2 else 65536) or length >> 63:
                    raise ProtocolError("bad length")

            monkeypatch.setattr(PYTHON["frames"], "_check_length", _check_length)
            assert "twins' frames" in find("parser")

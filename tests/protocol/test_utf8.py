"""The incremental check of UTF-8 (RFC 6455, section 8.1; RFC 3629)."""

from __future__ import annotations

import itertools

import pytest

from websocketserver.exceptions import ProtocolError

VALID = [
    "",
    "plain ASCII, longer than any word that is looked at in one go, and then some more of it to be sure" * 3,
    "\x00\x7f",
    "\x80\u07ff",
    "\u0800\u0fff\u1000\ucfff\ud000\ud7ff\ue000\uffff",
    "\U00010000\U0003ffff\U00040000\U000fffff\U00100000\U0010ffff",
    "κόσμε, Käse, 日本語, 🧀 and ASCII in between that goes on for a while, longer than a block of bytes" * 3,
    "\ufeff a byte order mark is a character",
]
# what each ends with is the first byte that cannot be part of valid UTF-8 (RFC 3629, section 4)
INVALID = [
    b"\x80",
    b"\xbf",
    b"\xc0",
    b"\xc1",
    b"\xc2\x7f",
    b"\xc2\xc2",
    b"\xdf\xff",
    b"\xe0\x80",
    b"\xe0\x9f",
    b"\xe0\xa0\x7f",
    b"\xe1\x80\xc0",
    b"\xec\x41",
    b"\xed\xa0",
    b"\xed\xbf",
    b"\xef\xbf\xff",
    b"\xf0\x80",
    b"\xf0\x8f",
    b"\xf0\x90\x7f",
    b"\xf0\x90\x80\x7f",
    b"\xf1\x80\x80\xc0",
    b"\xf4\x90",
    b"\xf4\x8f\xbf\xc0",
    b"\xf5",
    b"\xf8",
    b"\xfe",
    b"\xff",
]
UNFINISHED = [b"\xc2", b"\xe0", b"\xe0\xa0", b"\xed\x9f", b"\xef\xbf", b"\xf0", b"\xf0\x90", b"\xf4\x8f\xbf"]
BEFORE = [b"", b"a", "é日🧀".encode(), b"a" * 15, b"a" * 64, "🧀".encode() * 40]


@pytest.mark.parametrize("text", VALID)
def test_valid_text_whole_byte_by_byte_and_with_the_next_behind(utf8, text):
    validator = utf8.Utf8Validator()
    data = text.encode()
    validator.feed(data, final=True)
    for i in range(len(data)):
        validator.feed(data[i : i + 1])
    validator.feed(b"", final=True)
    validator.feed(data + data, final=True)


@pytest.mark.parametrize("text", VALID)
def test_valid_text_cut_anywhere(utf8, text):
    data = text.encode()
    validator = utf8.Utf8Validator()
    for cut in range(len(data)):
        validator.feed(data[:cut])
        validator.feed(data[cut:], True)


@pytest.mark.parametrize("bad", INVALID)
@pytest.mark.parametrize("before", BEFORE)
def test_fails_at_the_first_bad_byte_not_earlier_not_later(utf8, before, bad):
    validator = utf8.Utf8Validator()
    validator.feed(before + bad[:-1])
    with pytest.raises(ProtocolError) as caught:
        validator.feed(bad[-1:])
    assert caught.value.close_code == 1007
    for fed in (before + bad, before + bad + b"and more" * 20):
        with pytest.raises(ProtocolError):
            utf8.Utf8Validator().feed(fed)


@pytest.mark.parametrize("bad", INVALID)
def test_fails_wherever_in_a_long_text_the_bad_byte_is(utf8, bad):
    text = "é日🧀a" * 40  # 400 bytes: more than are looked at in one go
    for at in range(0, len(text), 3):
        before, after = text[:at].encode(), text[at:].encode()
        utf8.Utf8Validator().feed(before + after, final=True)
        assert not accepts(utf8, before + bad + after)
        assert not accepts(utf8, before + bad[:-1] + after) or len(bad) == 1


@pytest.mark.parametrize("end", UNFINISHED)
@pytest.mark.parametrize("before", BEFORE)
def test_an_unfinished_character_is_an_error_at_the_end_only(utf8, before, end):
    validator = utf8.Utf8Validator()
    validator.feed(before + end)
    with pytest.raises(ProtocolError, match="text is not valid UTF-8") as caught:
        validator.feed(b"", final=True)
    assert caught.value.close_code == 1007
    with pytest.raises(ProtocolError):
        utf8.Utf8Validator().feed(before + end, final=True)


def test_agrees_with_the_codec_on_every_class_of_bytes(utf8):
    bounds = b"\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xe0\xe1\xed\xee\xf0\xf1\xf4\xf5"
    for data in map(bytes, itertools.chain(*(itertools.product(bounds, repeat=n) for n in (1, 2, 3)))):
        assert accepts(utf8, data) == decodes(data), data.hex()


def test_agrees_with_the_codec_on_every_four_byte_character(utf8):
    bounds = [0x7F, 0x80, 0x8F, 0x90, 0xBF, 0xC0]
    for first, *rest in itertools.product([0xF0, 0xF1, 0xF3, 0xF4, 0xF5], bounds, bounds, bounds):
        data = bytes((first, *rest))
        assert accepts(utf8, data) == decodes(data), data.hex()


def accepts(utf8, data: bytes) -> bool:
    try:
        utf8.Utf8Validator().feed(data, True)
    except ProtocolError:
        return False
    return True


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("end", UNFINISHED)
@pytest.mark.parametrize("size", [1, 64, 192, 200])
def test_ascii_does_not_continue_a_character(utf8, end, size):
    validator = utf8.Utf8Validator()
    validator.feed(end)
    with pytest.raises(ProtocolError):
        validator.feed(b"a" * size)


def test_reset_forgets_an_unfinished_text(utf8):
    validator = utf8.Utf8Validator()
    validator.feed(b"\xe2\x82")
    validator.reset()
    validator.feed(b"abc", final=True)


def test_an_error_ends_the_text(utf8):
    validator = utf8.Utf8Validator()
    with pytest.raises(ProtocolError):
        validator.feed(b"\xe2\x82\x41")
    validator.feed("€".encode(), final=True)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer(utf8, kind):
    validator = utf8.Utf8Validator()
    validator.feed(kind("€".encode()[:2]))
    validator.feed(kind("€".encode()[2:] + b"abc"), final=True)
    with pytest.raises(ProtocolError):
        validator.feed(kind(b"\xff"))


@pytest.mark.parametrize("data", ["text", None, 5])
def test_only_bytes_can_be_checked(utf8, data):
    with pytest.raises(TypeError):
        utf8.Utf8Validator().feed(data)


@pytest.mark.parametrize("around", ["", "a" * 100, "é" * 50, "€" * 40, "🧀" * 30])
@pytest.mark.parametrize("text", VALID)
def test_decoding_and_encoding(utf8, text, around):
    for whole in (text + around, around + text, around + text + around):
        data = whole.encode()
        assert utf8.encode(whole) == data
        assert utf8.decode(data) == utf8.decode(memoryview(data)) == whole


@pytest.mark.parametrize("around", ["", "a" * 100, "é" * 50, "🧀" * 30])
@pytest.mark.parametrize("data", INVALID)
def test_what_is_not_utf8_is_not_decoded(utf8, data, around):
    for whole in (around.encode() + data, data + around.encode()):
        with pytest.raises(UnicodeDecodeError) as expected:
            whole.decode()
        with pytest.raises(UnicodeDecodeError) as caught:
            utf8.decode(whole)
        assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("surrogate", ["\ud800", "\udfff"])
def test_a_lone_surrogate_is_not_encoded(utf8, surrogate):
    for text in (surrogate, "é" * 100 + surrogate, surrogate + "🧀" * 100):
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            utf8.encode(text)


@pytest.mark.parametrize("wrong", [None, 5, b"bytes"])
def test_only_str_is_encoded(utf8, wrong):
    with pytest.raises(TypeError):
        utf8.encode(wrong)

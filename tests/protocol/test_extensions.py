"""RFC 6455, section 9: agreeing on extensions."""

from __future__ import annotations

import pytest

from websocketserver.exceptions import HandshakeError
from websocketserver.protocol.extensions import (
    RSV1,
    RSV2,
    RSV3,
    Codec,
    Decoder,
    Encoder,
    Extension,
    Params,
    accept_answer,
    format_offers,
    negotiate,
)
from websocketserver.protocol.grammar import parse_extensions


class Sample(Extension):
    """An extension that accepts every offer of its name without ``no``."""

    def __init__(self, name: str, rsv: int, *offers: Params) -> None:
        self.name = name
        self.rsv = rsv
        self.offers = list(offers) or [[]]

    def offer(self) -> list[Params]:
        return self.offers

    def answer(self, params: Params) -> Codec | None:
        return None if ("no", None) in params else Codec(self, params, Encoder(), Decoder())

    def accept(self, params: Params) -> Codec:
        if ("no", None) in params:
            raise HandshakeError("no")
        return Codec(self, params, Encoder(), Decoder())


FOO = Sample("foo", RSV1)
BAR = Sample("bar", RSV2)
FOO_TOO = Sample("foo-too", RSV1)


def answer(header: str, *extensions: Extension) -> str:
    value, codecs = negotiate(parse_extensions(header), extensions)
    assert value == ", ".join(map(str, codecs))
    return value


class TestOffers:
    def test_extensions_are_offered_in_order_with_their_offers_in_order(self) -> None:
        first = Sample("first", RSV1, [("size", "10"), ("fast", None)], [("size", "5")])
        assert format_offers([first, BAR]) == "first; size=10; fast, first; size=5, bar"

    def test_nothing_to_offer_gives_nothing(self) -> None:
        assert format_offers([]) == ""

    def test_what_is_offered_can_be_parsed_again(self) -> None:
        offers: list[Params] = [[("a", "b-c"), ("d", None)], []]
        assert parse_extensions(format_offers([Sample("foo", 0, *offers)])) == [("foo", params) for params in offers]

    @pytest.mark.parametrize("offer", [[("a b", None)], [("a", "b c")], [("a", "")], [("a", "x\r\ny: z")]])
    def test_what_is_not_made_of_tokens_is_refused(self, offer: Params) -> None:
        with pytest.raises(ValueError, match="token"):
            format_offers([Sample("foo", 0, offer)])


class TestServer:
    def test_known_extension_is_accepted(self) -> None:
        assert answer("foo; a=1", FOO) == "foo; a=1"

    def test_unknown_extension_is_passed_over(self) -> None:
        assert answer("baz, foo; a", FOO) == "foo; a"

    def test_no_offer_and_no_extension_give_no_header(self) -> None:
        assert negotiate([], [FOO]) == ("", [])
        assert negotiate([("foo", [])], []) == ("", [])

    def test_the_first_acceptable_offer_of_several_is_taken(self) -> None:
        assert answer("foo; no, foo; b, foo; c", FOO) == "foo; b"

    def test_all_offers_declined_give_no_header(self) -> None:
        assert answer("foo; no, foo; no", FOO) == ""

    def test_the_client_decides_the_order(self) -> None:
        assert answer("bar, foo", FOO, BAR) == "bar, foo"
        assert answer("foo, bar", FOO, BAR) == "foo, bar"

    def test_of_two_extensions_with_one_rsv_bit_the_later_is_declined(self) -> None:
        assert answer("foo, foo-too, bar", FOO_TOO, FOO, BAR) == "foo, bar"
        assert answer("foo-too, foo", FOO, FOO_TOO) == "foo-too"

    def test_a_declined_offer_leaves_its_rsv_bit_to_others(self) -> None:
        assert answer("foo; no, foo-too", FOO, FOO_TOO) == "foo-too"

    def test_overlapping_rsv_bits_conflict_and_no_bits_never_do(self) -> None:
        wide, free = Sample("wide", RSV2 | RSV3), Sample("free", 0)
        assert answer("bar, wide, free", BAR, wide, free) == "bar, free"

    def test_a_second_extension_of_the_name_is_asked_when_the_first_declines(self) -> None:
        class Strict(Sample):
            def answer(self, params: Params) -> Codec | None:
                return super().answer(params) if ("strict", None) in params else None

        header = "foo; plain"
        value, codecs = negotiate(parse_extensions(header), [Strict("foo", RSV1), Sample("foo", RSV2)])
        assert (value, codecs[0].rsv) == ("foo; plain", RSV2)


class TestClient:
    def accept(self, header: str, *extensions: Extension) -> list[Codec]:
        return accept_answer(parse_extensions(header), extensions)

    def test_the_answer_decides_which_and_in_what_order(self) -> None:
        assert [codec.name for codec in self.accept("bar, foo; a=1", FOO, BAR)] == ["bar", "foo"]
        assert [codec.params for codec in self.accept("bar, foo; a=1", FOO, BAR)] == [[], [("a", "1")]]

    def test_no_answer_is_no_extension(self) -> None:
        assert accept_answer([], [FOO]) == []

    @pytest.mark.parametrize(
        ("header", "what"),
        [
            ("baz", "not offered"),
            ("foo, baz", "not offered"),
            ("foo, foo", "does not go"),
            ("foo, foo-too", "does not go"),
        ],
    )
    def test_what_was_not_offered_or_cannot_be_combined_fails(self, header: str, what: str) -> None:
        with pytest.raises(HandshakeError, match=what):
            self.accept(header, FOO, FOO_TOO, BAR)

    def test_unacceptable_parameters_fail(self) -> None:
        with pytest.raises(HandshakeError):
            self.accept("foo; no", FOO)


class TestDefaults:
    def test_a_bare_extension_offers_its_name_declines_and_refuses(self) -> None:
        bare = Extension()
        bare.name = "bare"
        assert format_offers([bare]) == "bare"
        assert bare.answer([]) is None
        with pytest.raises(HandshakeError, match="bare"):
            bare.accept([])

    def test_bare_halves_leave_messages_as_they_are(self) -> None:
        encoder, decoder = Encoder(), Decoder()
        assert encoder.begin(text=True, size=1, compress=True) == 0
        assert not decoder.begin(RSV1 | RSV2 | RSV3)
        assert encoder.encode(memoryview(b"ab"), True) == decoder.decode(bytearray(b"ab"), True, None) == b"ab"
        encoder.release()
        decoder.release()

    def test_a_codec_shows_what_was_agreed(self) -> None:
        codec = Codec(FOO, [("a", "1"), ("b", None)], Encoder(), Decoder())
        assert (codec.name, codec.rsv, codec.release_after, str(codec)) == ("foo", RSV1, None, "foo; a=1; b")
        assert repr(codec) == "<Codec foo; a=1; b>"

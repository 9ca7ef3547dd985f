"""examples/private_extension.py: an extension as users write them, through real frames."""

from __future__ import annotations

import pytest

from examples.private_extension import Checksum
from websocketserver.exceptions import HandshakeError, ProtocolError
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.endpoint import Endpoint, Role
from websocketserver.protocol.extensions import Extension, Params, accept_answer, format_offers, negotiate
from websocketserver.protocol.grammar import parse_extensions

from .program import Program

KEY = b"\x37\xfa\x21\x3d"


def endpoints(*extensions: Extension, fragment_size: int | None = None) -> tuple[Endpoint, Endpoint]:
    """A server and a client that have agreed on what they could."""
    answer, codecs = negotiate(parse_extensions(format_offers(extensions)), extensions)
    accepted = accept_answer(parse_extensions(answer), extensions)
    server = Endpoint(Role.SERVER, new_key=lambda: KEY, codecs=codecs, fragment_size=fragment_size)
    return server, Endpoint(Role.CLIENT, new_key=lambda: KEY, codecs=accepted, fragment_size=fragment_size)


def payload(endpoint: Endpoint, *feeds: bytes) -> bytes:
    """The only message in these bytes."""
    [event] = [event for feed in feeds for event in endpoint.receive(feed)]
    assert isinstance(event[0], bytes)
    return event[0]


@pytest.mark.parametrize("fragment_size", [None, 1, 3])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_messages_pass_both_ways(size: int, fragment_size: int | None) -> None:
    server, client = endpoints(Checksum(), fragment_size=fragment_size)
    message = bytes(range(256)) * 4
    for sender, receiver in ((client, server), (server, client)):
        wire = sender.send_message(message[:size])
        assert payload(receiver, wire) == message[:size]
        wire = sender.send_message(message[:size])
        assert payload(receiver, *(wire[i : i + 1] for i in range(len(wire)))) == message[:size]


def test_it_goes_with_compression() -> None:
    server, client = endpoints(Checksum(), PerMessageDeflate(threshold=10), fragment_size=7)
    for message in (b"", b"small", bytes(5000)):
        assert payload(server, client.send_message(message)) == message
        assert payload(client, server.send_message(message)) == message


def test_a_changed_message_is_refused() -> None:
    server, client = endpoints(Checksum())
    wire = bytearray(client.send_message(b"one thousand"))
    wire[10] ^= 1
    with pytest.raises(ProtocolError, match="checksum") as caught:
        list(server.receive(bytes(wire)))
    assert caught.value.close_code == 1007


@pytest.mark.parametrize("payload", [b"", b"abc"])
def test_a_message_without_room_for_a_checksum_is_refused(payload: bytes) -> None:
    server, _ = endpoints(Checksum())
    with pytest.raises(ProtocolError, match="checksum"):
        list(server.receive(bytes([0xA2, 0x80 | len(payload)]) + bytes(4) + payload))


@pytest.mark.parametrize(
    "params", [[], [("function", "md5")], [("function", None)], [("function", "crc32"), ("x", None)]]
)
def test_unknown_parameters_are_declined_and_refused(params: Params) -> None:
    assert Checksum().answer(params) is None
    with pytest.raises(HandshakeError, match="x-checksum"):
        Checksum().accept(params)


def test_the_second_offer_is_taken_where_the_first_is_not_known() -> None:
    offers = parse_extensions("x-checksum; function=blake3, x-checksum; function=adler32")
    assert negotiate(offers, [Checksum()])[0] == "x-checksum; function=adler32"


def test_the_program() -> None:
    with Program("-m", "examples.private_extension") as program:
        assert program.line().startswith("x-checksum; function=crc32, permessage-deflate")
        assert program.line() == "The server says: Hello!"
        assert program.line().startswith("permessage-deflate")
        assert program.line() == "The server says: Hello!"
        assert program.wait() == (0, "", "")

"""A private extension: each message carries a checksum, and the other side verifies it.

    python3 -m examples.private_extension

Both sides are in this file: a server and a client who know the extension, and one who does not.
"""

import threading
import zlib

from websocketserver import (
    RSV2,
    Codec,
    Decoder,
    Encoder,
    Extension,
    HandshakeError,
    ProtocolError,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketRequestHandler,
)

FUNCTIONS = {"crc32": zlib.crc32, "adler32": zlib.adler32}


class Checksum(Extension):
    """Sec-WebSocket-Extensions: x-checksum; function=crc32"""

    name = "x-checksum"
    rsv = RSV2  # marks the messages that carry a checksum

    def offer(self):  # the client offers, the most preferred first,
        return [[("function", name)] for name in FUNCTIONS]

    def answer(self, params):  # the server takes the first offer that it does not decline,
        function = FUNCTIONS.get(dict(params).get("function"))
        if function is None or len(params) != 1:
            return None
        return Codec(self, params, Append(function), Verify(function))

    def accept(self, params):  # and the client checks what was answered
        codec = self.answer(params)
        if codec is None:
            raise HandshakeError(f"cannot use {self.name} with {params}")
        return codec


class Append(Encoder):
    """The sending half of one connection."""

    def __init__(self, function):
        self.function = function

    def begin(self, *, text, size, compress):
        self.checksum = self.function(b"")
        return RSV2

    def encode(self, data, fin):
        self.checksum = self.function(data, self.checksum)
        return bytes(data) + (self.checksum.to_bytes(4, "big") if fin else b"")


class Verify(Decoder):
    """The receiving half: messages come in pieces, and the last four bytes of all are the checksum."""

    def __init__(self, function):
        self.function = function

    def begin(self, rsv):
        self.checksum, self.held_back = self.function(b""), b""
        return bool(rsv & RSV2)

    def decode(self, data, fin, max_size):
        data = self.held_back + data
        data, self.held_back = data[:-4], data[-4:]
        self.checksum = self.function(data, self.checksum)
        if fin and self.held_back != self.checksum.to_bytes(4, "big"):
            raise ProtocolError("the checksum does not match", 1007)
        return data


class Echo(WebSocketRequestHandler):
    extensions = (Checksum(),)

    def on_message(self, message):
        self.websocket.send(message)


def main():
    with ThreadingWebSocketServer(("localhost", 0), Echo) as server:
        threading.Thread(target=server.serve_forever).start()
        for extensions in [(Checksum(),), ()]:
            with WebSocketClient(f"ws://localhost:{server.server_port}/", extensions=extensions) as websocket:
                websocket.send("Hello!")
                print(*websocket.extensions, sep=", ")
                print("The server says:", websocket.recv(timeout=5))
        server.shutdown()


if __name__ == "__main__":
    main()

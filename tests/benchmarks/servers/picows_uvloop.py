"""picows + uvloop: argv PORT MODE DEFLATE [str].

The default is what picows' own benchmark does: bytes out as they came in, no UTF-8 decoding of text. With "str" it
decodes and encodes text messages, which is what every other peer here does.
"""

import sys

import uvloop
from picows import WSCloseCode, WSListener, WSMsgType, ws_create_server

port, mode = int(sys.argv[1]), sys.argv[2]
as_text = "str" in sys.argv
clients = set()


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        t = frame.msg_type
        if t == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code() or WSCloseCode.NO_INFO, frame.get_close_message())
            transport.disconnect()
        elif as_text and t == WSMsgType.TEXT:
            transport.send(t, frame.get_payload_as_utf8_text().encode())
        else:
            transport.send(t, frame.get_payload_as_memoryview())


class Broadcast(WSListener):
    def on_ws_connected(self, transport):
        clients.add(transport)

    def on_ws_disconnected(self, transport):
        clients.discard(transport)

    def on_ws_frame(self, transport, frame):
        t = frame.msg_type
        if t == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code() or WSCloseCode.NO_INFO, frame.get_close_message())
            transport.disconnect()
        else:
            data = frame.get_payload_as_bytes()
            for c in clients:
                c.send(t, data)


async def main():
    cls = Echo if mode == "echo" else Broadcast
    server = await ws_create_server(lambda request: cls(), "127.0.0.1", port, max_frame_size=1 << 28, backlog=1024)
    await server.serve_forever()


uvloop.run(main())

"""picows' asyncio client on uvloop; the loops of common.py as callbacks."""

import asyncio
import sys

import uvloop
from common import now, report
from picows import WSCloseCode, WSListener, WSMsgType, ws_connect

url, mode, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class L(WSListener):
    def on_ws_connected(self, t):
        self.t, self.n, self.done = t, 0, asyncio.get_running_loop().create_future()
        self.bytes = 0

    def on_ws_frame(self, t, f):
        if f.msg_type == WSMsgType.CLOSE:
            t.disconnect()
            return
        if mode in ("rtt", "rttb"):
            got = f.get_payload_as_utf8_text() if mode == "rtt" else f.get_payload_as_bytes()
            if got != self.msgs[self.n % 7]:
                self.done.set_exception(SystemExit("echo differs"))
                return
            self.n += 1
            if self.n == self.warm:
                self.began = now()
            if self.n == count + self.warm:
                self.done.set_result(None)
                return
            self.put()
        elif f.msg_type == WSMsgType.TEXT:
            self.last = f.get_payload_as_utf8_text()
            self.done.set_result(None)
        else:
            self.n += 1
            self.bytes += len(f.get_payload_as_bytes())

    def put(self):
        m = self.msgs[self.n % 7]
        if mode == "rtt":
            self.t.send(WSMsgType.TEXT, m.encode())
        else:
            self.t.send(WSMsgType.BINARY, m)

    def pause_writing(self):
        self.can.clear()

    def resume_writing(self):
        self.can.set()


async def one(path):
    t, c = await ws_connect(L, url + path, max_frame_size=1 << 28)
    c.can = asyncio.Event()
    c.can.set()
    return t, c


async def end(t):
    t.send_close(WSCloseCode.OK)
    await t.wait_disconnected()


async def round_trips():
    t, c = await one("/echo")
    c.msgs = [(chr(97 + i % 26) * size) for i in range(7)]
    if mode == "rttb":
        c.msgs = [m.encode() for m in c.msgs]
    c.warm = min(count, 100)
    c.put()
    await c.done
    report(c.began, count, count * size)
    await end(t)


async def push():
    t, c = await one("/sink")
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    began = now()
    for _ in range(count):
        t.send(WSMsgType.BINARY, data)
        if not c.can.is_set():
            await c.can.wait()
    t.send(WSMsgType.TEXT, b"?")
    await c.done
    ended = now()
    if c.last != f"{count} {count * size}":
        raise SystemExit("sink counted " + c.last)
    report(began, count, count * size, ended)
    await end(t)


async def pull():
    t, c = await one(f"/source?size={size}&count={count}")
    began = now()
    t.send(WSMsgType.TEXT, b"go")
    await c.done
    ended = now()
    if c.n != count or c.bytes != size * count:
        raise SystemExit(f"source sent {c.n}")
    report(began, count, count * size, ended)
    await end(t)


async def connects():
    began = now()
    for _ in range(count):
        t, _ = await one("/echo")
        await end(t)
    report(began, count, 0)


uvloop.run({"rtt": round_trips, "rttb": round_trips, "push": push, "pull": pull, "connect": connects}[mode]())

"""The measured loops of the synchronous Python clients: argv URL MODE SIZE COUNT.

A client program gives `main(connect)` a function that takes a URL and returns an
object with send(str or bytes), recv() and close().  Modes:

rtt      COUNT round trips of a SIZE-byte text against an echo path
rttb     the same with binary
push     COUNT binary messages of SIZE bytes to /sink, then its count is checked
pull     COUNT binary messages of SIZE bytes from /source
connect  COUNT times connect and close

Prints one line of JSON: {"secs": ..., "n": ..., "bytes": ..., "cpu": ...}.
"""

import json
import sys
import time
from functools import partial


def now():
    """Return the moment, by the clock and by the time that this process has had of a core."""
    return time.perf_counter(), time.process_time()


def report(began, n, nbytes, ended=None):
    ended = ended or now()
    print(json.dumps({"secs": ended[0] - began[0], "cpu": ended[1] - began[1], "n": n, "bytes": nbytes}))


def round_trips(connect, url, size, count, binary=False):
    ws = connect(url + "/echo")
    msgs = [(chr(97 + i % 26) * size) for i in range(7)]
    if binary:
        msgs = [m.encode() for m in msgs]
    for i in range(min(count, 100)):
        ws.send(msgs[i % 7])
        assert ws.recv() == msgs[i % 7]
    began = now()
    for i in range(count):
        m = msgs[i % 7]
        ws.send(m)
        if ws.recv() != m:
            raise SystemExit("echo differs")
    report(began, count, count * size)
    ws.close()


def push(connect, url, size, count):
    ws = connect(url + "/sink")
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    began = now()
    for _ in range(count):
        ws.send(data)
    ws.send("?")
    got, ended = ws.recv(), now()
    if got != f"{count} {count * size}":
        raise SystemExit("sink counted " + got)
    report(began, count, count * size, ended)
    ws.close()


def pull(connect, url, size, count):
    ws = connect(url + f"/source?size={size}&count={count}")
    began = now()
    ws.send("go")
    n = 0
    while True:
        m = ws.recv()
        if isinstance(m, str):
            break
        if len(m) != size:
            raise SystemExit("length differs")
        n += 1
    ended = now()
    if n != count or m != "done":
        raise SystemExit(f"source sent {n}")
    report(began, count, count * size, ended)
    ws.close()


def connects(connect, url, size, count):
    connect(url + "/echo").close()
    began = now()
    for _ in range(count):
        connect(url + "/echo").close()
    report(began, count, 0)


MODES = {"rtt": round_trips, "rttb": partial(round_trips, binary=True), "push": push, "pull": pull, "connect": connects}


def main(connect):
    url, mode, size, count = sys.argv[1:5]
    if mode not in MODES:
        raise SystemExit("unknown mode")
    MODES[mode](connect, url, int(size), int(count))

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


def report(secs, cpu, n, nbytes):
    print(json.dumps({"secs": secs, "cpu": cpu, "n": n, "bytes": nbytes}))


def main(connect):
    url, mode, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    clock, cpu = time.perf_counter, time.process_time
    if mode in ("rtt", "rttb"):
        ws = connect(url + "/echo")
        msgs = [(chr(97 + i % 26) * size) for i in range(7)]
        if mode == "rttb":
            msgs = [m.encode() for m in msgs]
        for i in range(min(count, 100)):
            ws.send(msgs[i % 7])
            assert ws.recv() == msgs[i % 7]
        t0, c0 = clock(), cpu()
        for i in range(count):
            m = msgs[i % 7]
            ws.send(m)
            if ws.recv() != m:
                raise SystemExit("echo differs")
        report(clock() - t0, cpu() - c0, count, count * size)
        ws.close()
    elif mode == "push":
        ws = connect(url + "/sink")
        data = bytes(range(256)) * (size // 256 + 1)
        data = data[:size]
        t0, c0 = clock(), cpu()
        for _ in range(count):
            ws.send(data)
        ws.send("?")
        got = ws.recv()
        dt, dc = clock() - t0, cpu() - c0
        if got != f"{count} {count * size}":
            raise SystemExit("sink counted " + got)
        report(dt, dc, count, count * size)
        ws.close()
    elif mode == "pull":
        ws = connect(url + f"/source?size={size}&count={count}")
        t0, c0 = clock(), cpu()
        ws.send("go")
        n = 0
        while True:
            m = ws.recv()
            if isinstance(m, str):
                break
            if len(m) != size:
                raise SystemExit("length differs")
            n += 1
        dt, dc = clock() - t0, cpu() - c0
        if n != count or m != "done":
            raise SystemExit(f"source sent {n}")
        report(dt, dc, count, count * size)
        ws.close()
    elif mode == "connect":
        connect(url + "/echo").close()
        t0, c0 = clock(), cpu()
        for _ in range(count):
            connect(url + "/echo").close()
        report(clock() - t0, cpu() - c0, count, 0)
    else:
        raise SystemExit("unknown mode")

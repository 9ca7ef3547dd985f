"""Faults on the way: a transport and a proxy that hold back, split, cut, reset and stall what passes, by a seeded plan.

    FaultyTransport   around a connection's own transport (``faulty`` gives it to all connections made meanwhile):
                      writes taken in part or not at all, reads in pieces or for nothing, and an end.
    FaultyProxy       between two real peers, TLS or not, whose bytes it does not understand: what passes is
                      held back, split, and comes to an end.

What a plan does is decided by its seed and by how many bytes have passed, never by a clock; what is held back leaves
when its moment in the proxy's schedule has come.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

from websocketserver import connection
from websocketserver.deadline import Deadline
from websocketserver.transport import Buffer, Transport, make_transport

from .support import SOON, run_in_thread

__all__ = ["ENDS", "NO_FAULT", "FaultyProxy", "FaultyTransport", "Plan", "faulty", "reset"]

ENDS = ("drop", "reset", "stall")
LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends a RST
BACKLOG = 256 * 1024  # bytes that a direction of the proxy holds back at most


class Plan(NamedTuple):
    """What becomes of one direction of a stream.

    ``piece`` is how many bytes pass at once at most (None: as they come), ``refusals`` how often (0 to 1) a call gets
    nothing for now, ``delay`` how many seconds a piece is held back at most. After ``after`` bytes the stream comes to
    its ``end``: "drop" (as if the peer had gone: its end is seen), "reset" (RST), "stall" (nothing passes any more) or
    None (it has none).
    """

    piece: int | None = None
    refusals: float = 0.0
    delay: float = 0.0
    end: str | None = None
    after: int = 0

    @classmethod
    def random(cls, random: Random, *, ends: Sequence[str | None] = (None, *ENDS), most: int = 100_000) -> Plan:
        """Return a plan by chance, whose end comes before so many bytes have passed."""
        return cls(
            piece=random.choice([None, 1 + random.randrange(16), 1 + random.randrange(2000)]),
            refusals=random.choice([0.0, 0.3]),
            delay=random.choice([0.0, 0.0, 0.001, 0.01]),
            end=random.choice(ends),
            after=int(2 ** random.uniform(0, most.bit_length() - 1)),
        )


NO_FAULT = Plan()


def reset(sock: socket.socket) -> None:
    """Close a socket with a RST, where it is TCP's."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    sock.close()


# Around a transport


class FaultyTransport(Transport):
    """A transport that does to what is sent, and to what is received, what two plans say; delays are the proxy's.

    ``injected`` counts the faults.
    """

    def __init__(self, inner: Transport, sending: Plan, receiving: Plan, random: Random) -> None:
        super().__init__(inner._sock)
        self.retractable = inner.retractable
        self.injected: Counter[str] = Counter()
        self._inner = inner
        self._sending, self._receiving = sending, receiving
        # One thread sends while another receives: each has its own luck.
        self._senders, self._receivers = Random(random.random()), Random(random.random())
        self._sent = self._received = 0
        self._offered: int | None = None  # what TLS did not take, and must be offered again unchanged
        self._cut = threading.Event()  # nobody waits for what has stalled any more

    def receive(self, size: int, block: bool = False) -> bytes | None:
        plan = self._receiving
        ending = self._ends(plan, self._received)
        if ending is not None:
            return b"" if _is_eof(ending) else None
        room = self._room(plan, self._received, size)
        if self._is_refused(plan, self._receivers, "read refused"):
            return None
        if room < size:
            self.injected["read split"] += 1
        data = self._inner.receive(room, block and not self._threatened)
        self._received += len(data or b"")
        return data

    def receive_into(self, buffer: memoryview) -> int | None:
        plan = self._receiving
        ending = self._ends(plan, self._received)
        if ending is not None:
            return 0 if _is_eof(ending) else None
        if self._is_refused(plan, self._receivers, "read refused"):
            return None
        with buffer[: self._room(plan, self._received, len(buffer))] as view:
            size = self._inner.receive_into(view)
        self._received += size or 0
        return size

    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        plan = self._sending
        ending = self._ends(plan, self._sent)
        if ending is not None:
            if _is_eof(ending):
                raise BrokenPipeError("cut by a plan")
            return 0
        if self._offered is None and self._is_refused(plan, self._senders, "write refused"):
            return 0
        whole = b"".join(buffers)
        room = self._offered or self._room(plan, self._sent, len(whole))
        if room < len(whole):
            self.injected["write split"] += 1
        taken = self._inner.send([whole[:room]] if room < len(whole) else buffers)
        self._offered = None if taken or self.retractable else room
        self._sent += taken
        return taken

    def wait(self, readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
        stalls_reading = readable and self._ends(self._receiving, self._received) == "stall"
        stalls_writing = writable and self._ends(self._sending, self._sent) == "stall"
        readable, writable = readable and not stalls_reading, writable and not stalls_writing
        if readable or writable:
            can_read, can_write = self._inner.wait(readable, writable, deadline)
            return can_read, can_write
        self._cut.wait(deadline.left())
        return stalls_reading and self._cut.is_set(), stalls_writing and self._cut.is_set()

    def pending(self) -> bool:
        return self._ends(self._receiving, self._received) is None and self._inner.pending()

    def shutdown_write(self) -> None:
        if self._ends(self._sending, self._sent) is None:
            self._inner.shutdown_write()

    def shutdown(self) -> None:
        self._cut.set()
        self._inner.shutdown()

    def discard(self, size: int) -> int | None:
        return self._inner.discard(size)

    @property
    def _threatened(self) -> bool:
        """Whether a read must come back by itself, to see what has become of the stream."""
        return self._receiving.end is not None or self._cut.is_set()

    def _ends(self, plan: Plan, passed: int) -> str | None:
        """Return how the direction has ended, None if it has not."""
        if plan.end is None or passed < plan.after:
            return None
        if not self.injected[plan.end]:
            self.injected[plan.end] = 1
            if plan.end != "stall":
                self.shutdown()
        return None if self._cut.is_set() and plan.end == "stall" else plan.end

    def _is_refused(self, plan: Plan, luck: Random, what: str) -> bool:
        if not plan.refusals or luck.random() >= plan.refusals:
            return False
        self.injected[what] += 1
        return True

    def _room(self, plan: Plan, passed: int, size: int) -> int:
        """Return how many bytes may pass at once: at least one, and none beyond the end."""
        room = size if plan.piece is None else min(size, plan.piece)
        return room if plan.end is None or passed >= plan.after else min(room, plan.after - passed)


def _is_eof(ending: str) -> bool:
    """Return whether the stream ends for whoever uses it, or only stalls; raise ConnectionResetError."""
    if ending == "reset":
        raise ConnectionResetError("reset by a plan")
    return ending == "drop"


@contextlib.contextmanager
def faulty(plans: Callable[[], tuple[Plan, Plan]], seed: int) -> Iterator[list[FaultyTransport]]:
    """Give all connections that are made meanwhile faulty transports: plans() are (sending, receiving) of the next.

    Yields the transports, in the order in which they are made.
    """
    made: list[FaultyTransport] = []
    random = Random(seed)

    def make(sock: socket.socket, **options: Any) -> FaultyTransport:
        made.append(FaultyTransport(make_transport(sock, **options), *plans(), random))
        return made[-1]

    with patch.object(connection, "make_transport", make):
        yield made


# Between two peers


class _Flow:
    """One direction through the proxy. For the proxy's thread."""

    def __init__(self, source: socket.socket, sink: socket.socket, plan: Plan, random: Random) -> None:
        self.source, self.sink, self.plan = source, sink, plan
        self._random = random
        self._held: deque[tuple[float, bytes]] = deque()  # when it may leave, in order
        self._size = 0
        self._passed = 0
        self._blocked = False  # the sink takes nothing now
        self.eof = False  # the source has ended
        self.over = False  # and so has the sink

    @property
    def wants_input(self) -> bool:
        return not (self.eof or self.over) and self._size < BACKLOG

    @property
    def wants_output(self) -> bool:
        return self._blocked and not self.over

    def due(self) -> float | None:
        """Return when something is to leave next."""
        return self._held[0][0] if self._held and not (self._blocked or self.over) else None

    def read(self, now: float) -> None:
        try:
            data = self.source.recv(1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.eof = True
        at = 0
        while at < len(data):
            size = len(data) if self.plan.piece is None else self._random.randint(1, self.plan.piece)
            delay = self._random.uniform(0, self.plan.delay) if self.plan.delay else 0.0
            moment = max(now + delay, self._held[-1][0] if self._held else 0.0)
            self._held.append((moment, data[at : at + size]))
            at += size
        self._size += len(data)

    def write(self, now: float, injected: Counter[str]) -> str | None:
        """Send what is due; return how the stream is to end, if that moment has come."""
        self._blocked = False
        while self._held and self._held[0][0] <= now and not self.over:
            moment, data = self._held.popleft()
            room = self.plan.after - self._passed if self.plan.end else len(data)
            if room <= 0:
                return self._end(injected)
            try:
                sent = self.sink.send(data[:room])
            except BlockingIOError:
                sent = 0
            self._passed += sent
            self._size -= sent
            injected["piece held back"] += self.plan.delay > 0
            injected["piece split"] += self.plan.piece is not None
            if sent < len(data):
                self._held.appendleft((moment, data[sent:]))
                if sent < min(room, len(data)):
                    self._blocked = True
                    return None
        if self.eof and not self._held and not self.over:
            self.over = True
            self.sink.shutdown(socket.SHUT_WR)
        return None

    def _end(self, injected: Counter[str]) -> str | None:
        self.over = True
        self._held.clear()
        assert self.plan.end is not None
        injected[self.plan.end] += 1
        return self.plan.end


class _Pair:
    """A client and the server behind the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, plans: tuple[Plan, Plan], random: Random) -> None:
        self.client, self.server = client, server
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flows = [
            _Flow(client, server, plans[0], random),
            _Flow(server, client, plans[1], random),
        ]

    def is_over(self) -> bool:
        """A direction that has stalled ends with the other."""
        return all(flow.over for flow in self.flows)


class FaultyProxy:
    """A TCP proxy that treats each connection through it by two plans: towards the server, and back.

        with FaultyProxy(server_address, seed=1, plans=lambda random: (Plan(piece=1), NO_FAULT)) as proxy:
            WebSocketClient(f"ws://localhost:{proxy.port}/")

    One thread does it all. ``injected`` counts the faults, ``connections`` what came through.
    """

    def __init__(self, target: tuple[Any, ...], *, seed: int, plans: Callable[[Random], tuple[Plan, Plan]]) -> None:
        self.injected: Counter[str] = Counter()
        self.connections = 0
        self._target = target[:2]
        self._random = Random(seed)
        self._plans = plans
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self._ours, self._theirs = socket.socketpair()  # one byte ends the thread
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._theirs, selectors.EVENT_READ)
        self._interest: dict[socket.socket, int] = {}

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> FaultyProxy:
        self._handle = run_in_thread(self._run)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ours.send(b"x")
        try:
            self._handle.result(SOON)
        finally:
            for pair in list(self._pairs):
                self._close(pair)
            self._selector.close()
            for sock in (self._listener, self._ours, self._theirs):
                sock.close()

    def _run(self) -> None:
        while True:
            dues = [due for pair in self._pairs for flow in pair.flows if (due := flow.due()) is not None]
            timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
            ready = {key.fileobj: events for key, events in self._selector.select(timeout)}
            if self._theirs in ready:
                return
            if self._listener in ready:
                self._accept()
            now = time.monotonic()
            for pair in list(self._pairs):
                self._step(pair, ready, now)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(self._target, SOON)
        except OSError:
            reset(client)
            return
        self.connections += 1
        pair = _Pair(client, server, self._plans(self._random), Random(self._random.random()))
        self._pairs.add(pair)
        self._watch(pair)

    def _step(self, pair: _Pair, ready: dict[Any, int], now: float) -> None:
        try:
            for flow in pair.flows:
                if flow.wants_input and ready.get(flow.source, 0) & selectors.EVENT_READ:
                    flow.read(now)
                end = flow.write(now, self.injected)
                if end == "drop":
                    return self._close(pair)
                if end == "reset":
                    return self._close(pair, reset)
            if pair.is_over():
                return self._close(pair)
        except OSError:  # one side was reset: so is the other
            return self._close(pair, reset)
        self._watch(pair)

    def _watch(self, pair: _Pair) -> None:
        to_server, to_client = pair.flows
        for sock, reading, writing in ((pair.client, to_server, to_client), (pair.server, to_client, to_server)):
            events = selectors.EVENT_READ if reading.wants_input else 0
            events |= selectors.EVENT_WRITE if writing.wants_output else 0
            if events == self._interest.get(sock, 0):
                continue
            if not events:
                self._selector.unregister(sock)
            elif self._interest.get(sock):
                self._selector.modify(sock, events)
            else:
                self._selector.register(sock, events)
            self._interest[sock] = events

    def _close(self, pair: _Pair, close: Callable[[socket.socket], None] = socket.socket.close) -> None:
        self._pairs.discard(pair)
        for sock in (pair.client, pair.server):
            if self._interest.pop(sock, 0):
                self._selector.unregister(sock)
            close(sock)

"""Receiving at once, with C: nothing is done, and nothing waited for, where it is not simple."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
import threading
from contextlib import ExitStack

import pytest

from websocketserver import Role, express
from websocketserver.protocol.events import Message
from websocketserver.pump import Turn
from websocketserver.trace import TracedFrame

from ..support import frame, half, run_in_thread, wait_until
from .kit import Ends, change, frames

pytestmark = pytest.mark.usefixtures("no_timer")

#: What makes it not simple to receive: by the name of an attribute, and what it may be.
NOT_RECEIVING: dict[str, object] = {
    "_turn": Turn(),
    "_input_over": True,
    "_pumping": True,
    "_over": True,
    "_announce": lambda: None,
    "_gathering": 1,
    "_sent": object(),
    "_held": object(),
    "_failed": True,
    "_skipping": True,
    "_output.queued": [(9, b"")],
    "_output.rest": [b"rest"],
    "_receiver.in_frame": True,
    "_receiver._in_message": True,
    "_receiver._as_fragments": True,
    "_receiver.closed": True,
    "_transport.direct": None,
    "_transport": None,
}


@pytest.mark.parametrize("name", NOT_RECEIVING)
def test_receiving(ends: Ends, name: str) -> None:
    connection, peer = ends
    peer.frame(1, b"text")
    undo = change(connection, name, NOT_RECEIVING[name])
    assert express.receive_at_once(connection, False) is None
    undo()
    assert connection.stats.bytes_received == 0
    assert express.receive_at_once(connection, False) == Message("text", True)
    assert connection.stats.messages_received == 1
    assert not connection._pumping


def test_locks_that_others_hold(ends: Ends) -> None:
    connection, peer = ends
    peer.frame(1, b"text")
    with connection._lock:
        assert express.receive_at_once(connection, False) is None
    with connection._output.lock:
        assert express.send_at_once(connection, "text") is False
    assert express.receive_at_once(connection, False) == Message("text", True)


def test_tls() -> None:
    with half(tls=True) as (connection, peer):
        peer.frame(1, b"text")
        assert express.receive_at_once(connection, False) is None
        assert express.send_at_once(connection, "text") is False


def test_stand_ins(ends: Ends) -> None:
    """A trace has them in place of parser and sender, also one that begins while somebody waits."""
    connection, peer = ends
    receiving = run_in_thread(connection.recv)
    wait_until(lambda: connection._pumping)
    told: list[TracedFrame] = []
    connection.trace(told.append)
    assert express.send_at_once(connection, "text") is False
    peer.frame(1, b"text")
    assert receiving.result() == "text"
    wait_until(lambda: told)
    peer.frame(1, b"more")
    assert express.receive_at_once(connection, False) is None
    connection.trace(None)
    assert express.receive_at_once(connection, False) == Message("more", True)


def test_what_is_in_the_inbox_comes_first(ends: Ends) -> None:
    connection, peer = ends
    peer.send(b"".join(frames(connection, 4)))
    assert express.receive_at_once(connection, True) == Message("0", True)
    assert len(connection._inbox) == 3
    assert connection._inbox_size == 3 * 65
    for number in range(1, 4):
        assert express.receive_at_once(connection, True) == Message(str(number), True)
    assert connection._inbox_size == 0


def test_without_looking_ahead_it_stays_with_the_parser(ends: Ends) -> None:
    connection, peer = ends
    peer.send(b"".join(frames(connection, 2)))
    assert express.receive_at_once(connection, False) == Message("0", True)
    assert connection._unparsed and not connection._inbox
    assert express.receive_at_once(connection, False) == Message("1", True)
    assert not connection._unparsed


def test_an_interrupt_while_waiting_loses_nothing(ends: Ends) -> None:
    connection, peer = ends
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: connection._pumping)
        signal.pthread_kill(main, signal.SIGINT)

    interrupting = run_in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        express.receive_at_once(connection, False)
    interrupting.result()
    assert not connection._pumping
    peer.frame(1, b"text")
    assert express.receive_at_once(connection, False) == Message("text", True)


def test_a_signal_that_raises_nothing_is_waited_out(ends: Ends) -> None:
    connection, peer = ends
    main = threading.main_thread().ident
    assert main is not None
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))

    def disturb() -> None:
        wait_until(lambda: connection._pumping)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait_until(lambda: seen)
        peer.frame(1, b"text")

    try:
        disturbing = run_in_thread(disturb)
        assert express.receive_at_once(connection, False) == Message("text", True)
        disturbing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_of_many_that_have_received_few_wait_for_the_gil() -> None:
    """Each that does wakes up again and again to ask for it."""
    libc = ctypes.PyDLL(None)  # its functions keep the GIL
    text = frame(1, b"text", key=b"keys")
    interval = sys.getswitchinterval()
    with ExitStack() as stack:
        ends = [stack.enter_context(half(Role.SERVER)) for _ in range(200)]
        receiving = [run_in_thread(connection.recv) for connection, _ in ends]
        wait_until(lambda: all(connection._pumping for connection, _ in ends))
        sys.setswitchinterval(0.001)
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
            for _, peer in ends:
                libc.send(peer.sock.fileno(), text, len(text), 0)
            libc.usleep(100_000)
            switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
        finally:
            sys.setswitchinterval(interval)
        assert [each.result() for each in receiving] == ["text"] * 200
    assert switches < 7000

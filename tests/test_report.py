"""What a shutdown reports, and how it reads."""

from __future__ import annotations

import threading

import pytest

from websocketserver.report import RunningHandler, ShutdownReport, format_address, look_at

from .support import run_in_thread, wait_until


def test_reads_well_when_all_went_well() -> None:
    assert str(ShutdownReport((), (), ())) == "closed 0, cut 0"
    closed = (("127.0.0.1", 5000), ("::1", 5001, 0, 0))
    assert str(ShutdownReport(closed, ("",), ())) == "closed 2 (127.0.0.1:5000, [::1]:5001), cut 1 (a client)"


def test_names_ten_and_counts_the_rest() -> None:
    text = str(ShutdownReport(tuple(("h", port) for port in range(1000)), (), ()))
    assert text == f"closed 1000 ({', '.join(f'h:{port}' for port in range(10))} and 990 more), cut 0"


def test_shows_where_a_handler_is() -> None:
    handler = RunningHandler(("h", 1), "Thread-7", '  File "x.py", line 3, in stuck\n')
    text = str(ShutdownReport((), (), (handler,)))
    assert text == 'closed 0, cut 0, still running 1:\nh:1 in Thread-7:\n  File "x.py", line 3, in stuck'


@pytest.mark.parametrize(
    ("address", "text"), [(("h", 1), "h:1"), (("::1", 1, 0, 0), "[::1]:1"), ("/run/x", "/run/x"), ("", "a client")]
)
def test_addresses(address: object, text: str) -> None:
    assert format_address(address) == text


def test_looks_at_threads() -> None:
    go = threading.Event()
    handle = run_in_thread(stand_still, go)
    ident = handle.thread.ident
    assert ident is not None
    wait_until(lambda: "stand_still" in look_at([("a", ident)])[0].stack)
    go.set()
    handle.result()
    [gone] = look_at([("a", ident)])
    assert (gone.address, gone.stack) == ("a", "")


def stand_still(go: threading.Event) -> None:
    go.wait(5)

"""The client under test: echoes every message of each case. Usage: client.py URL NUMBER-OF-CASES"""

from __future__ import annotations

import sys
from contextlib import suppress

from websocketserver import ConnectionClosed, WebSocketClient

AGENT = "websocketserver"


def run_case(url: str) -> None:
    # Group 9 sends messages of 16 MiB, and one in 65,537 frames.
    with WebSocketClient(url, max_message_size=32 << 20, max_fragments=1 << 17) as websocket:
        with suppress(ConnectionClosed):  # the suite knows how the connection should end, and reports on it
            for message in websocket:
                websocket.send(message)


if __name__ == "__main__":
    base, number = sys.argv[1], int(sys.argv[2])
    for case in range(1, number + 1):
        run_case(f"{base}/runCase?case={case}&agent={AGENT}")
    run_case(f"{base}/updateReports?agent={AGENT}")

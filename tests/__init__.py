"""The tests; they mirror the package. WEBSOCKETSERVER_DEBUG=1 shows what it logs."""

from __future__ import annotations

import logging
import os

if os.environ.get("WEBSOCKETSERVER_DEBUG"):
    logging.basicConfig(level=logging.DEBUG, format="%(relativeCreated)7d ms %(threadName)s %(name)s %(message)s")

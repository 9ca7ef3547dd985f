"""websockets.sync.client, with its C extension."""

from common import main
from websockets.sync.client import connect

main(
    lambda url: connect(url, compression=None, max_size=None, ping_interval=None, proxy=None, legacy=True)
)  # version 17.1 and later

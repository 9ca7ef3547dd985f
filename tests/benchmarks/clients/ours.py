"""The client of this project."""

from common import main

from websocketserver import WebSocketClient

main(lambda url: WebSocketClient(url, compression=None, max_message_size=None, max_queue_size=None, ping_interval=None))

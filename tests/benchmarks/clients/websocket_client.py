"""websocket-client, with its accelerator (wsaccel)."""

import websocket
from common import main


class Client:
    def __init__(self, url):
        self.ws = ws = websocket.create_connection(url)
        self.recv = ws.recv
        self.close = ws.close

    def send(self, data):
        if isinstance(data, str):
            self.ws.send(data)
        else:
            self.ws.send_binary(data)


main(Client)

"""A blocking, threaded WebSocket library shaped like socketserver and http.server.

    from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler

    class Echo(WebSocketRequestHandler):
        def on_message(self, message):          # str for text, bytes for binary
            self.websocket.send(message)

    with ThreadingWebSocketServer(("", 8000), Echo) as server:
        server.serve_forever()
"""

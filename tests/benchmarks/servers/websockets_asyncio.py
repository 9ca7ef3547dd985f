"""websockets.asyncio.server: argv PORT MODE DEFLATE [uvloop]."""

import asyncio
import sys

from websockets.asyncio.server import broadcast as ws_broadcast
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

port, mode, deflate = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
clients = set()


async def echo(ws):
    try:
        async for message in ws:
            await ws.send(message)
    except ConnectionClosed:
        pass


async def broadcast(ws):
    clients.add(ws)
    try:
        async for message in ws:
            ws_broadcast(clients, message)
    except ConnectionClosed:
        pass
    finally:
        clients.discard(ws)


async def main():
    async with serve(
        echo if mode == "echo" else broadcast,
        "127.0.0.1",
        port,
        max_size=None,
        ping_interval=None,
        compression="deflate" if deflate else None,
    ) as server:
        await server.serve_forever()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())

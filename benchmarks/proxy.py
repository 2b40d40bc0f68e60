"""A TCP proxy on loopback that brings every byte later: a network in between.

    proxy.py PORT SECONDS

Passes connections on to PORT of loopback; what is sent arrives SECONDS later, each way,
in its order, and as fast as it was sent. Says its own port in a line on stdout. Ends
when stdin ends.
"""

import asyncio
import contextlib
import sys

_CHUNK_BYTES = 1 << 16


async def pump(reader, writer, seconds):
    """Brings what `reader` gives to `writer`, `seconds` later; the end of it, too."""
    loop = asyncio.get_running_loop()
    under_way = asyncio.Queue()

    async def bring():
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()

    bringing = asyncio.create_task(bring())
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            under_way.put_nowait((loop.time() + seconds, chunk))
    under_way.put_nowait((loop.time() + seconds, b""))
    with contextlib.suppress(OSError):
        await bringing
    writer.close()


async def main(port, seconds):
    async def connect(reader, writer):
        # A connection takes its way, too: the client's SYN and the answer to it.
        await asyncio.sleep(2 * seconds)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # this process ends
            await asyncio.gather(pump(reader, far_writer, seconds),
                                 pump(far_reader, writer, seconds))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))

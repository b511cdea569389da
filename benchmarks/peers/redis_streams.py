"""Redis Streams with an append-only file that is synced before each answer (appendfsync always)."""

from __future__ import annotations

import asyncio
import selectors
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio

from benchmarks.latency import Arrived, Write
from benchmarks.measure import Server, Stopwatch
from benchmarks.peers.process import HOST, peer

# XREAD from Python is fastest with about so many.
READ_COUNT: Final = 1000
# Redis holds streams in memory; the loads keep theirs about so long.
LENGTH_MAX: Final = 200_000
FIELD: Final = b"item"
_RECEIVE_BYTES: Final = 64 * 1024


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A Redis that syncs each write, takes no snapshots and does not rewrite its log in the middle of a run."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("There is no redis-server on the PATH. On Debian and Ubuntu: apt-get install redis-server")
    settings = {
        "bind": HOST,
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "auto-aof-rewrite-percentage": "0",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with peer(folder, lambda port: [program, "--port", str(port), *options]) as started:
        yield started


def load(server: Server, item: bytes, connections: int, pipelined: int, seconds: float) -> dict[str, Any]:
    """XADDs as prepared bytes, so many at a time on each connection: a client that costs next to nothing."""
    command = _command(b"XADD", b"load", b"MAXLEN", b"~", str(LENGTH_MAX).encode(), b"*", FIELD, item) * pipelined
    written = 0
    with selectors.DefaultSelector() as selector:
        sockets = [socket.create_connection(_address(server)) for _ in range(connections)]
        try:
            for each in sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(each, selectors.EVENT_READ)
            watch = Stopwatch(server)
            deadline = time.perf_counter() + seconds
            waiting = dict.fromkeys(sockets, pipelined)
            for each in sockets:
                each.sendall(command)
            while waiting:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    each = key.fileobj
                    data = each.recv(_RECEIVE_BYTES)
                    # An id is answered as "$15\r\n1690000000000-0\r\n"; an error begins with "-".
                    assert data, "the server closed the connection"
                    assert not data.startswith(b"-"), data
                    answers = data.count(b"$")
                    written += answers
                    waiting[each] -= answers
                    if waiting[each] == 0:
                        if time.perf_counter() < deadline:
                            waiting[each] = pipelined
                            each.sendall(command)
                        else:
                            del waiting[each]
            return _figures(watch, written)
        finally:
            for each in sockets:
                each.close()


def load_by_client(server: Server, item: bytes, pipelined: int, seconds: float) -> dict[str, Any]:
    """The same by redis-py, one client."""
    host, port = _address(server)
    written = 0
    with redis.Redis(host=host, port=port) as client:
        watch = Stopwatch(server)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            pipeline = client.pipeline(transaction=False)
            for _ in range(pipelined):
                pipeline.xadd("load", {FIELD: item}, maxlen=LENGTH_MAX, approximate=True)
            written += len(pipeline.execute())
        return _figures(watch, written)


def fill(server: Server, item: bytes, records: int, batch: int) -> None:
    """Makes the stream that `read` reads."""
    host, port = _address(server)
    with redis.Redis(host=host, port=port) as client:
        for _ in range(0, records, batch):
            pipeline = client.pipeline(transaction=False)
            for _ in range(batch):
                pipeline.xadd("log", {FIELD: item})
            pipeline.execute()


def read(server: Server, seconds: float) -> dict[str, Any]:
    """Reads the stream from its beginning again and again."""
    host, port = _address(server)
    count = 0
    with redis.Redis(host=host, port=port) as client:
        watch = Stopwatch(server)
        deadline = time.perf_counter() + seconds
        last: Any = "0"
        while time.perf_counter() < deadline:
            answer: Any = client.xread({"log": last}, count=READ_COUNT)
            if not answer:
                last = "0"
                continue
            entries = answer[0][1]
            count += len(entries)
            last = entries[-1][0]
        return _figures(watch, count)


@asynccontextmanager
async def subscribed(server: Server, item: bytes) -> AsyncIterator[tuple[Write, Arrived]]:
    """An XADD, and the times at which the entries arrive at a blocking XREAD."""
    host, port = _address(server)
    clock = asyncio.get_running_loop().time
    arrived: Arrived = asyncio.Queue(maxsize=1)
    async with redis.asyncio.Redis(host=host, port=port) as writer, redis.asyncio.Redis(host=host, port=port) as reader:

        async def write() -> None:
            await writer.xadd("live", {FIELD: item})

        last: Any = await writer.xadd("live", {FIELD: item})

        async def subscribe() -> None:
            nonlocal last
            while True:
                answer: Any = await reader.xread({"live": last}, block=1000)
                if answer:
                    now = clock()
                    last = answer[0][1][-1][0]
                    await arrived.put(now)

        subscribing = asyncio.create_task(subscribe())
        try:
            yield write, arrived
        finally:
            subscribing.cancel()
            await asyncio.wait({subscribing})


def _figures(watch: Stopwatch, count: int) -> dict[str, Any]:
    elapsed, server_cpu, own_cpu = watch.stop()
    return {
        "per_second": round(count / elapsed),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(own_cpu / elapsed, 2),
    }


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.endpoint.rpartition(":")
    return host, int(port)


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

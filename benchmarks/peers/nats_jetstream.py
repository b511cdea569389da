"""NATS JetStream in files, synced before each answer (sync_interval always) or every two minutes, as is its default."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors
from nats.js.api import StorageType, StreamConfig

from benchmarks.latency import Arrived, Write
from benchmarks.measure import Server, Stopwatch
from benchmarks.peers.process import HOST, peer

FILE_BYTES_MAX: Final = 4 * 1024**3
# The loads keep about so many bytes.
LOAD_BYTES_MAX: Final = 256 * 1024**2
CHECK_EVERY: Final = 100
MESSAGE_TIMEOUT_S: Final = 10.0


@contextmanager
def server(folder: Path, *, is_synced: bool) -> Iterator[Server]:
    """A NATS server with JetStream in the folder."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if program is None:
        raise SystemExit("There is no nats-server; make bench-peers installs it from PyPI")
    folder.mkdir(parents=True, exist_ok=True)
    sync = "sync_interval: always" if is_synced else ""
    configuration = folder / "server.conf"
    configuration.write_text(
        f'jetstream {{ store_dir: "{folder}", max_file_store: {FILE_BYTES_MAX}\n{sync}\n}}\n', encoding="utf-8"
    )
    with peer(folder, lambda port: [program, "-c", str(configuration), "-a", HOST, "-p", str(port)]) as started:
        yield started


async def load(server: Server, item: bytes, writers: int, batch: int, seconds: float) -> dict[str, Any]:
    """Publishes so many at once in each of so many tasks, and waits for the answers."""
    async with _stream(server, "load", max_bytes=LOAD_BYTES_MAX) as stream:
        clock = asyncio.get_running_loop().time
        watch = Stopwatch(server)
        deadline = clock() + seconds

        async def write() -> int:
            written = 0
            while clock() < deadline:
                await asyncio.gather(*[await stream.publish_async("load", item) for _ in range(batch)])
                written += batch
            return written

        return _figures(watch, sum(await asyncio.gather(*(write() for _ in range(writers)))))


async def fill(server: Server, item: bytes, records: int, batch: int) -> None:
    """Makes the stream that `read` reads."""
    async with _stream(server, "log") as stream:
        for _ in range(0, records, batch):
            await asyncio.gather(*[await stream.publish_async("log", item) for _ in range(batch)])


async def read(server: Server, records: int, seconds: float) -> dict[str, Any]:
    """Reads the stream from its beginning again and again with an ordered consumer."""
    async with _stream(server, "log") as stream:
        clock = asyncio.get_running_loop().time
        watch = Stopwatch(server)
        deadline, count = clock() + seconds, 0
        figures: dict[str, Any] = {}
        finished = asyncio.Event()

        # By far faster than asking for one message after the other.
        async def receive(_: Any) -> None:
            nonlocal count
            count += 1
            if count % records == 0 or (count % CHECK_EVERY == 0 and clock() >= deadline):
                finished.set()

        while clock() < deadline:
            finished.clear()
            subscription = await stream.subscribe("log", cb=receive, ordered_consumer=True)
            await asyncio.wait_for(finished.wait(), seconds + MESSAGE_TIMEOUT_S)
            figures = _figures(watch, count)
            await subscription.unsubscribe()
        return figures


@asynccontextmanager
async def subscribed(server: Server, item: bytes) -> AsyncIterator[tuple[Write, Arrived]]:
    """A publish, and the times at which the messages arrive at an ordered consumer."""
    clock = asyncio.get_running_loop().time
    arrived: Arrived = asyncio.Queue(maxsize=1)

    async def receive(_: Any) -> None:
        await arrived.put(clock())

    async with _stream(server, "live") as stream, _stream(server, "live") as writer:

        async def write() -> None:
            await writer.publish("live", item)

        subscription = await stream.subscribe("live", cb=receive, ordered_consumer=True)
        # Messages of an earlier run come first.
        while True:
            try:
                await asyncio.wait_for(arrived.get(), 0.5)
            except TimeoutError:
                break
        yield write, arrived
        await subscription.unsubscribe()


@asynccontextmanager
async def _stream(server: Server, name: str, max_bytes: int = -1) -> AsyncIterator[Any]:
    connection = await nats.connect(f"nats://{server.endpoint}")
    try:
        stream = connection.jetstream()
        configuration = StreamConfig(name=name, subjects=[name], storage=StorageType.FILE, max_bytes=max_bytes)
        await stream.add_stream(configuration)
        yield stream
    finally:
        await connection.close()


def _figures(watch: Stopwatch, count: int) -> dict[str, Any]:
    elapsed, server_cpu, own_cpu = watch.stop()
    return {
        "per_second": round(count / elapsed),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(own_cpu / elapsed, 2),
    }

"""The ceiling to compare with: a grpc.aio server with the broker's options and loop that does nothing at all.

Echo/Echo answers any message with an empty one. Echo/Stream sends the chunks of a file (each: 4 bytes of length, then
the bytes) again and again until so many bytes are sent. When it listens it prints one line of JSON, as the broker does.

    python -m benchmarks.echo_server [CHUNK_FILE]
"""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import sys
from pathlib import Path
from typing import TypeAlias

import grpc

try:
    from uvloop import run
except ImportError:
    from asyncio import run  # type: ignore[assignment]

from broker.rpc import server as broker_server

SERVICE = "headrace.benchmarks.Echo"
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


def chunks_of(file: Path) -> list[bytes]:
    """The chunks of a file."""
    data = file.read_bytes()
    chunks, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    return chunks


async def serve(chunks: list[bytes]) -> None:
    """Serves until SIGTERM."""

    async def echo(request: bytes, context: Context) -> bytes:
        del request, context
        return b""

    async def stream(request: bytes, context: Context) -> None:
        remaining = struct.unpack(">Q", request)[0]
        while remaining > 0:
            for chunk in chunks:
                await context.write(chunk)
                remaining -= len(chunk)

    server = grpc.aio.server(options=broker_server.OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    run(serve(chunks_of(Path(sys.argv[1])) if len(sys.argv) > 1 else []))

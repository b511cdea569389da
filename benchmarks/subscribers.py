"""Many subscribers in a few processes of their own: each reads its call again and again, or never reads at all.

A process opens its connections, says that it is ready, waits for a line, and then reads for so many seconds or holds
its calls open until its input ends.

    python -m benchmarks.subscribers '{"endpoint": ...}'
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import grpc

from benchmarks.measure import ROOT
from headrace import _lazy
from headrace.v1.stream_service_pb2 import GetRecordsResponse

READY_TIMEOUT_S: Final = 60.0
PROCESSES_MAX: Final = 2
# A subscriber has a connection of its own up to here; beyond, they share this many in each process.
CONNECTIONS_MAX: Final = 64

# Not at all; into records that are left as bytes until someone looks at them; or all that is in them.
Parsing = Literal["bytes", "lazy", "records"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What to call, how many times at once, and how the responses are parsed."""

    endpoint: str
    path: str
    # The serialized request, in hexadecimal digits.
    request: str
    subscribers: int
    parsing: Parsing = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came."""

    received_bytes: int
    seconds: float
    cpu_seconds: float
    # The bytes of the subscriber that got least, and of the one that got most.
    least: int
    most: int


@contextmanager
def reading(specification: Specification) -> Iterator[Callable[[float], list[Result]]]:
    """Subscribers that are connected; the function lets all of them read for so many seconds."""
    with _processes(specification, "read") as processes:

        def read(seconds: float) -> list[Result]:
            for process in processes:
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
            return [Result(**json.loads(process.stdout.readline())) for process in processes]

        yield read


@contextmanager
def stalled(specification: Specification) -> Iterator[None]:
    """Subscribers whose calls have begun, and which read nothing of them."""
    with _processes(specification, "stall"):
        yield


@contextmanager
def _processes(specification: Specification, action: str) -> Iterator[list[Any]]:
    count = min(PROCESSES_MAX, specification.subscribers)
    with ExitStack() as stack:
        processes: list[Any] = []
        for index in range(count):
            part = specification.subscribers // count + (index < specification.subscribers % count)
            own = json.dumps(asdict(replace(specification, subscribers=part)))
            command = [sys.executable, "-m", "benchmarks.subscribers", action, own]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            )
            stack.callback(process.terminate)
            processes.append(process)
        for process in processes:
            assert process.stdout.readline() == "ready\n", "a subscriber process failed; its traceback is above"
        yield processes


async def _run(action: str, specification: Specification) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    if action == "stall":
        # A client that measures its bandwidth takes 4 MiB of each call into its own memory before the server notices
        # that nobody reads; this one takes 64 KiB, or a thousand would need 4 GB.
        options.append(("grpc.http2.bdp_probe", 0))
    channels = [
        grpc.aio.insecure_channel(specification.endpoint, options=options)
        for _ in range(min(CONNECTIONS_MAX, specification.subscribers))
    ]
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
        owners = [channels[index % len(channels)] for index in range(specification.subscribers)]
        await (_read if action == "read" else _stall)(specification, owners)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _read(specification: Specification, channels: list[grpc.aio.Channel]) -> None:
    seconds = float(await _line("ready"))
    request = bytes.fromhex(specification.request)
    received = [0] * len(channels)

    async def subscribe(index: int) -> None:
        method: Any = channels[index].unary_stream(
            specification.path, response_deserializer=_deserializer(specification.parsing, received, index)
        )
        while True:
            async for _ in method(request):
                pass

    begin, cpu = time.perf_counter(), time.process_time()
    subscribers = [asyncio.create_task(subscribe(index)) for index in range(len(channels))]
    done, _ = await asyncio.wait(subscribers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    result = Result(
        received_bytes=sum(received),
        seconds=time.perf_counter() - begin,
        cpu_seconds=time.process_time() - cpu,
        least=min(received),
        most=max(received),
    )
    for subscriber in subscribers:
        subscriber.cancel()
    await asyncio.wait(subscribers)
    for subscriber in done:
        subscriber.result()
    print(json.dumps(asdict(result)), flush=True)


async def _stall(specification: Specification, channels: list[grpc.aio.Channel]) -> None:
    request = bytes.fromhex(specification.request)
    methods: list[Any] = [channel.unary_stream(specification.path) for channel in channels]
    calls = [method(request) for method in methods]
    async with asyncio.timeout(READY_TIMEOUT_S):
        # The server has begun each call, and sends it.
        await asyncio.gather(*(call.initial_metadata() for call in calls))
    await _line("ready")
    for call in calls:
        assert not call.done(), call
        call.cancel()


def _deserializer(parsing: Parsing, received: list[int], index: int) -> Callable[[bytes], object]:
    """Counts the bytes of a response and parses as much of it as is wanted."""
    parse: Callable[[bytes], object] = {
        "bytes": lambda data: data,
        "lazy": _lazy.get_records_response(),
        "records": GetRecordsResponse.FromString,
    }[parsing]

    def deserialize(data: bytes) -> object:
        received[index] += len(data)
        return parse(data)

    return deserialize


async def _line(say: str) -> str:
    """Says something, and waits for the next line of the input; empty at its end."""
    print(say, flush=True)
    return await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], Specification(**json.loads(sys.argv[2]))))

"""A lean load generator for one unary gRPC method: raw HTTP/2 over one socket, in a process of its own.

A Python gRPC client spends more CPU on a call than the server it drives, and would measure itself. This one writes
prepared frames and counts the frames that come back: some 30 us a call. It checks that each call ended with a message
and not with an error, knows flow control and pings, and nothing else of HTTP/2.

    python -m benchmarks.http2_load < specification.json > result.json
"""

from __future__ import annotations

import base64
import json
import resource
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
RECEIVE_BYTES: Final = 256 * 1024
IDLE_TIMEOUT_S: Final = 20.0
# The call number is written into the request here, as this many digits: every call is another request of the same size.
NUMBER_DIGITS: Final = 12
NUMBER_MARK: Final = b"#" * NUMBER_DIGITS

_FRAME_HEADER: Final = struct.Struct(">HBBBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What to call, how hard and how long."""

    endpoint: str
    path: str
    # Base64 of the serialized request, in which NUMBER_MARK is replaced by the number of the call.
    request: str
    in_flight: int
    seconds: float
    first_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came back."""

    completed: int
    failed: int
    seconds: float
    client_cpu_seconds: float
    p50_ms: float
    p99_ms: float


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    length = len(payload)
    return _FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def literal(name_index: int, value: str) -> bytes:
    """A header field that the receiver adds to its table (HPACK 6.2.1), under a name of the static table."""
    return bytes([0x40 | name_index, len(value)]) + value.encode()


def run(specification: Specification) -> Result:
    """Keeps so many calls in flight for so long, then lets the last ones finish."""
    host, _, port = specification.endpoint.rpartition(":")
    prefix, suffix = base64.b64decode(specification.request).split(NUMBER_MARK)
    request_bytes = len(prefix) + NUMBER_DIGITS + len(suffix)
    message = b"\0" + struct.pack(">I", request_bytes) + prefix
    frame_bytes = 5 + request_bytes

    # POST, http; then path, authority, content-type and te, which later calls name by their places in the table.
    first_headers = (
        b"\x83\x86"
        + literal(4, specification.path)
        + literal(1, specification.endpoint)
        + literal(31, "application/grpc")
        + b"\x40\x02te\x08trailers"
    )
    next_headers = b"\x83\x86\xc1\xc0\xbf\xbe"

    connection = socket.create_connection((host, int(port)), timeout=IDLE_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    window = INITIAL_WINDOW
    connection.sendall(
        PREFACE
        + frame(SETTINGS, 0, 0, b"")
        + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - INITIAL_WINDOW))
    )

    number = specification.first_number
    stream = 1
    outgoing: list[bytes] = []
    started: dict[int, float] = {}
    answered: set[int] = set()
    latencies: list[float] = []
    failed = 0
    buffer = bytearray()
    clock = time.perf_counter
    begin = clock()
    deadline = begin + specification.seconds
    cpu_before = _cpu_seconds()
    room = specification.in_flight
    while True:
        now = clock()
        is_over = now >= deadline
        while room and not is_over and window >= frame_bytes:
            headers = first_headers if stream == 1 else next_headers
            outgoing.append(frame(HEADERS, END_HEADERS, stream, headers))
            body = message + b"%0*d" % (NUMBER_DIGITS, number) + suffix
            outgoing.append(frame(DATA, END_STREAM, stream, body))
            started[stream] = now
            window -= frame_bytes
            stream += 2
            number += 1
            room -= 1
        if outgoing:
            connection.sendall(b"".join(outgoing))
            outgoing.clear()
        if is_over and not started:
            break
        received = connection.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the server closed the connection")
        buffer += received
        place, end = 0, len(buffer)
        while end - place >= 9:
            high, low, kind, flags, owner = _FRAME_HEADER.unpack_from(buffer, place)
            length = high << 8 | low
            if end - place - 9 < length:
                break
            if kind == DATA:
                answered.add(owner)
            if kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
                latencies.append(clock() - started.pop(owner))
                # An error comes as headers alone.
                if owner in answered:
                    answered.remove(owner)
                else:
                    failed += 1
                room += 1
            elif kind == SETTINGS and not flags & ACK:
                outgoing.append(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                outgoing.append(frame(PING, ACK, 0, bytes(buffer[place + 9 : place + 9 + length])))
            elif kind == WINDOW_UPDATE and owner == 0:
                window += struct.unpack_from(">I", buffer, place + 9)[0]
            elif kind == GOAWAY:
                raise ConnectionError("the server says goodbye")
            place += 9 + length
        del buffer[:place]
    seconds = clock() - begin
    connection.close()
    latencies.sort()
    return Result(
        completed=len(latencies) - failed,
        failed=failed,
        seconds=seconds,
        client_cpu_seconds=_cpu_seconds() - cpu_before,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    json.dump(asdict(run(Specification(**json.load(sys.stdin)))), sys.stdout)

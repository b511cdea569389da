"""A lean load generator for one operation of AWS's JSON protocol: raw HTTP/1.1, in a process of its own.

Each connection is kept alive and has one request under way. Requests are prepared bytes, the same for every server;
of a response only its status and its length are looked at. Some 20 us a call.

    python -m benchmarks.http1_load < specification.json > result.json
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

RECEIVE_BYTES: Final = 1024 * 1024
IDLE_TIMEOUT_S: Final = 20.0
HEAD_BYTES_MAX: Final = 1024
# The number of the call is written into the request here, as this many digits.
NUMBER_DIGITS: Final = 12
NUMBER_MARK: Final = "#" * NUMBER_DIGITS

# Well-formed, and wrong: none of the servers looks at it.
_SIGNATURE: Final = (
    "Credential=AKIDBENCH/20261125/us-east-1/dynamodb/aws4_request, "
    f"SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={'0' * 64}"
)
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_CHUNKED_END: Final = b"0\r\n\r\n"
_CLOSED: Final = b"\r\nConnection: close\r\n"
_OK: Final = b" 200 "


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What to call, how hard and how long."""

    endpoint: str
    target: str
    # The body of a request, in which NUMBER_MARK is replaced by a number of the call.
    body: str
    connections: int
    seconds: float
    first_number: int
    # How many numbers there are before the first one comes again; 0: they do not.
    numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came back."""

    completed: int
    failed: int
    seconds: float
    received_bytes: int
    client_cpu_seconds: float
    p50_ms: float
    p99_ms: float


def request_bytes(endpoint: str, target: str, body: str) -> bytes:
    """A request as it is sent."""
    head = (
        "POST / HTTP/1.1",
        f"Host: {endpoint}",
        f"X-Amz-Target: {target}",
        "Content-Type: application/x-amz-json-1.0",
        "X-Amz-Date: 20261125T120000Z",
        f"Authorization: AWS4-HMAC-SHA256 {_SIGNATURE}",
        f"Content-Length: {len(body.encode())}",
    )
    return "\r\n".join((*head, "", body)).encode()


class Connection:
    """One connection, on which one call after the other is made."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._address = host, int(port)
        self.socket = self._connected()
        # Not all servers keep a connection that they are asked to keep.
        self.is_ended = False
        self._received = bytearray()
        self._whole = 0
        self._begun = 0.0

    def send(self, request: bytes) -> None:
        """Begins a call, on another socket if the server wants no more of this one."""
        if self.is_ended:
            self.socket.close()
            self.socket, self.is_ended = self._connected(), False
        self._received.clear()
        self._whole = 0
        self._begun = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> tuple[float, bytes] | None:
        """The time of the call and its response, if that is complete."""
        data = self.socket.recv(RECEIVE_BYTES)
        assert data, "the server closed a connection"
        received = self._received
        received += data
        if not self._whole:
            self._whole = _length(received)
            self.is_ended = _CLOSED in received[:HEAD_BYTES_MAX]
        if self._whole > 0:
            is_whole = len(received) >= self._whole
        else:
            is_whole = self._whole < 0 and received.endswith(_CHUNKED_END)
        return (time.perf_counter() - self._begun, bytes(received)) if is_whole else None

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(self._address, IDLE_TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def call(self, request: bytes) -> tuple[float, bytes]:
        """One call from its beginning to its end."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer


def _length(received: bytearray) -> int:
    """The bytes of the whole response; 0 while its head is not whole, -1 if it comes in chunks."""
    head_end = received.find(_HEAD_END)
    if head_end < 0:
        return 0
    head = bytes(received[:head_end]).lower()
    at = head.find(_LENGTH)
    if at < 0:
        return -1
    return head_end + len(_HEAD_END) + int(head[at + len(_LENGTH) :].partition(b"\r\n")[0])


def run(specification: Specification) -> Result:
    """Calls for the given time, then waits for what is under way."""
    template = request_bytes(specification.endpoint, specification.target, specification.body)
    before, mark, after = template.partition(NUMBER_MARK.encode())
    number = specification.first_number

    def next_request() -> bytes:
        nonlocal number
        if not mark:
            return template
        text = number % specification.numbers if specification.numbers else number
        number += 1
        return b"%b%0*d%b" % (before, NUMBER_DIGITS, text, after)

    connections = [Connection(specification.endpoint) for _ in range(specification.connections)]
    latencies: list[float] = []
    failed = received_bytes = 0
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        end = begin + specification.seconds
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next_request())
        under_way = len(connections)
        while under_way:
            ready = selector.select(IDLE_TIMEOUT_S)
            assert ready, "the server does not answer"
            for key, _ in ready:
                answer = key.data.receive()
                if answer is None:
                    continue
                latencies.append(answer[0])
                received_bytes += len(answer[1])
                failed += _OK not in answer[1][:16]
                if time.perf_counter() >= end:
                    under_way -= 1
                    continue
                connection = key.data
                is_new = connection.is_ended
                if is_new:
                    selector.unregister(connection.socket)
                connection.send(next_request())
                if is_new:
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
        seconds = time.perf_counter() - begin
    for connection in connections:
        connection.socket.close()
    latencies.sort()
    return Result(
        completed=len(latencies),
        failed=failed,
        seconds=seconds,
        received_bytes=received_bytes,
        client_cpu_seconds=time.process_time(),
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
    )


def main() -> None:
    """Reads a specification, writes a result."""
    result = run(Specification(**json.load(sys.stdin)))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()

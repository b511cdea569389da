"""A member of a consumer group as a process of its own, from nothing but the generated stubs, for tests to kill.

It appends a line "<sequence number> <key>" to a file for each record, and acks a response after that. Lines of all
members go to one file, so their order is the order of the processing. On SIGTERM it finishes the response it is at,
acks it, and leaves.

    python -m tests.crash.group_member ENDPOINT TABLE GROUP NAME FILE
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import grpc

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1.consumer_service_pb2_grpc import ConsumerServiceStub

RECONNECT_S = 0.05


class Member:
    """Processes what it is sent until it is told to stop."""

    def __init__(self, start: pb.ConsumeStart, output: Path) -> None:
        self._start = start
        self._file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._stopping = threading.Event()
        self._is_processing = False
        self._requests: queue.SimpleQueue[pb.ConsumeRequest | None] = queue.SimpleQueue()

    def stop(self, *_: object) -> None:
        # Runs in the one thread there is, between two of its steps.
        self._stopping.set()
        if not self._is_processing:
            self._requests.put(None)

    def run(self, endpoint: str) -> None:
        while not self._stopping.is_set():
            with grpc.insecure_channel(endpoint) as channel:
                try:
                    self._session(ConsumerServiceStub(channel))
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
            time.sleep(RECONNECT_S)

    def _session(self, stub: ConsumerServiceStub) -> None:
        requests: queue.SimpleQueue[pb.ConsumeRequest | None] = queue.SimpleQueue()
        self._requests = requests
        requests.put(pb.ConsumeRequest(start=self._start))
        epochs: dict[str, int] = {}
        for response in stub.Consume(iter(requests.get, None)):
            event = response.WhichOneof("event")
            if event == "assigned":
                epochs[response.shard_id] = response.lease_epoch
            if event in {"assigned", "started", "checkpointed", "revoking", "revoked", "nacked", "gap"}:
                continue
            if event == "refused":
                assert response.refused.reason == "LEASE_FENCED", response
                continue
            if not response.shard_id or response.lease_epoch != epochs[response.shard_id]:
                continue
            self._is_processing = True
            if self._stopping.is_set():
                # Not processed and not acked: others get it.
                continue
            if response.records:
                lines = [f"{r.sequence_number} {r.keys.attributes['id'].s}\n" for r in response.records]
                os.write(self._file, "".join(lines).encode())
            ack = pb.ConsumeAck(
                shard_id=response.shard_id,
                lease_epoch=response.lease_epoch,
                sequence_number=response.sequence_number,
            )
            requests.put(pb.ConsumeRequest(ack=ack))
            self._is_processing = False
            if self._stopping.is_set():
                requests.put(None)


def main() -> None:
    endpoint, table_name, group_name, name, output = sys.argv[1:]
    start = pb.ConsumeStart(
        table_name=table_name,
        group_name=group_name,
        member_name=name,
        starting_position=pb.STARTING_POSITION_TRIM_HORIZON,
        max_batch_records=20,
        max_in_flight_records=100,
        revoke_timeout_in_seconds=5,
    )
    member = Member(start, Path(output))
    signal.signal(signal.SIGTERM, member.stop)
    print("ready", flush=True)
    member.run(endpoint)


if __name__ == "__main__":
    main()

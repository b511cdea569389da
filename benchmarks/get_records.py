"""1, 10 and 100 subscribers of one shard reading its log, against raw gRPC streaming of the same bytes to as many."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.echo_server import SERVICE
from benchmarks.items import create_table, fill
from benchmarks.measure import Effort, Server, alternate, broker, echo_server, medians
from benchmarks.subscribers import Parsing, Specification, reading
from headrace.v1.stream_service_pb2 import GetRecordsRequest
from tests.rpc import Client

ITEM_BYTES: Final = 500
RECORDS: Final = 100_000
FAN_OUT: Final = (1, 10, 100)
GET_RECORDS: Final = "/headrace.v1.StreamService/GetRecords"
TARGET_RECORDS_PER_SECOND: Final = 1_500_000
TARGET_FAN_OUT: Final = 0.8


def run(folder: Path, effort: Effort) -> dict[str, Any]:
    """Fills a stream, then reads it from its beginning again and again."""
    with ExitStack() as stack:
        server = stack.enter_context(broker(folder / "get_records"))
        with Client(server.endpoint) as client:
            table = create_table(client)
            fill(client, table.name, range(RECORDS), ITEM_BYTES)
            shard_iterator = client.iterator(table.stream_arn)
            responses = list(client.read(shard_iterator))
        assert sum(len(response.records) for response in responses) == RECORDS
        chunks = [response.SerializeToString() for response in responses]
        chunk_file = folder / "chunks"
        chunk_file.write_bytes(b"".join(struct.pack(">I", len(chunk)) + chunk for chunk in chunks))
        size = sum(map(len, chunks))
        echo = stack.enter_context(echo_server(str(chunk_file)))
        request = GetRecordsRequest(shard_iterator=shard_iterator).SerializeToString()

        def side(name: str, subscribers: int, parsing: Parsing) -> dict[str, Any]:
            specification = Specification(
                endpoint=server.endpoint if name == "records" else echo.endpoint,
                path=GET_RECORDS if name == "records" else f"/{SERVICE}/Stream",
                request=(request if name == "records" else struct.pack(">Q", size)).hex(),
                subscribers=subscribers,
                parsing=parsing,
            )
            return read_log(server if name == "records" else echo, specification, effort.seconds, RECORDS / size)

        variants: list[tuple[int, Parsing]] = [(count, "bytes") for count in FAN_OUT] + [(1, "lazy"), (1, "records")]
        results = alternate(
            effort.runs,
            **{
                f"{name}_{count}_{parsing}": lambda name=name, count=count, parsing=parsing: side(name, count, parsing)
                for count, parsing in variants
                for name in ("raw", "records")
            },
        )
    figures = {name: medians(each) for name, each in results.items()}

    def ratio(one: str, other: str) -> float:
        return round(figures[one]["mb_per_second"] / figures[other]["mb_per_second"], 3)

    return {
        "what": f"GetRecords from the trim horizon to the tip again and again, NEW_IMAGE of {ITEM_BYTES} B items",
        "record_bytes": round(size / RECORDS),
        "chunk_bytes_mean": round(size / len(chunks)),
        "chunk_records_mean": round(RECORDS / len(chunks)),
        **figures,
        "ratio": {
            f"{count}_{parsing}": ratio(f"records_{count}_{parsing}", f"raw_{count}_{parsing}")
            for count, parsing in variants
        },
        "fan_out": {str(count): ratio(f"records_{count}_bytes", "records_1_bytes") for count in FAN_OUT},
        "fan_out_raw": {str(count): ratio(f"raw_{count}_bytes", "raw_1_bytes") for count in FAN_OUT},
        "target_records_per_second": TARGET_RECORDS_PER_SECOND,
        "target_fan_out": TARGET_FAN_OUT,
    }


def read_log(server: Server, specification: Specification, seconds: float, records_per_byte: float) -> dict[str, Any]:
    """Lets the subscribers read."""
    with reading(specification) as read:
        cpu = server.cpu_seconds()
        parts = read(seconds)
        server_cpu = server.cpu_seconds() - cpu
    elapsed = max(part.seconds for part in parts)
    received = sum(part.received_bytes for part in parts)
    return {
        "records_per_second": round(received * records_per_byte / elapsed),
        "mb_per_second": round(received / elapsed / 1e6, 1),
        "server_cpu_share": round(server_cpu / elapsed, 2),
        "client_cpu_share": round(sum(part.cpu_seconds for part in parts) / elapsed, 2),
        "server_cpu_ms_per_mb": round(server_cpu * 1e9 / received, 3),
        # How even it is: what the subscriber with the fewest bytes got of that with the most.
        "least_over_most": round(min(part.least for part in parts) / max(1, *(part.most for part in parts)), 3),
    }

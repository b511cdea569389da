"""More connections than a node may have files open: it keeps what its store needs, and goes on."""

from __future__ import annotations

import re
import resource
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.broker_process import BrokerProcess
from tests.conftest import eventually
from tests.rpc import Client, batch, put
from tests.values import item

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

FILES: Final = 1024
LIMITED: Final = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh")
SILENT_PER_PORT: Final = 700
# Each time about 64 MB of them, the store needs another log file and another table file.
LARGE: Final = "x" * 390_000
BATCHES: Final = 16
LARGE_PER_BATCH: Final = 25
# A little more than the node gives a connection to begin with HTTP/2.
CLOSED_WITHIN_S: Final = 20.0


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """The test itself has more connections than a usual limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def silent_connection(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def metrics(process: BrokerProcess) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://{process.http}/metrics", timeout=10).read().decode()
    return {name: float(value) for name, value in re.findall(r"^(headrace_\w+) (\S+)$", text, re.MULTILINE)}


def test_a_node_lives_with_more_silent_connections_than_it_may_have_files(tmp_path: Path) -> None:
    with (
        BrokerProcess(tmp_path, before=LIMITED) as process,
        Client(process.grpc, deadline_s=60) as client,
        ExitStack() as silent,
    ):
        table = client.create_table(view_type=None)
        before = metrics(process)
        assert before["headrace_open_files_limit"] == FILES
        assert 10 < before["headrace_open_files"] < 100
        for address in (process.grpc, process.http):
            for _ in range(SILENT_PER_PORT):
                silent.enter_context(silent_connection(address))
        for number in range(BATCHES):
            ids = [f"{number}-{n}" for n in range(LARGE_PER_BATCH)]
            (response,) = client.write_items(batch(table.name, *(put(item(id=id_, text=LARGE)) for id_ in ids)))
            assert not any(result.HasField("error") for result in response.results)
        # Those that never spoke are closed, and a client that comes later gets in. It has connections of its own.
        with grpc.insecure_channel(process.grpc, options=(("grpc.use_local_subchannel_pool", 1),)) as late:
            grpc.channel_ready_future(late).result(timeout=CLOSED_WITHIN_S)
        silent.close()
        after = eventually(lambda: metrics(process))
        assert after["headrace_http_refused_connections_total"] > 0
        assert "Too many open files" not in process.log_tail()
        assert len(client.contents(table)) == BATCHES * LARGE_PER_BATCH
        assert process.stop() == 0


def test_a_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, before=("sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh")) as process:
        assert metrics(process)["headrace_open_files_limit"] > 256

"""SIGKILL of a real broker while it writes and while its shards are split and merged, at random moments.

After each restart the lineage is whole, each hash is in one open shard, and the stream read as a whole gives every
acknowledged write once and each item's changes in order.
"""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from headrace.v1.stream_service_pb2 import DescribeStreamRequest, GetRecordsRequest, Shard
from tests.broker_process import BrokerProcess
from tests.crash.load import Load
from tests.crash.test_kill import Background, judge
from tests.guarantees import BrokenError, Logged, check_resumable, logged
from tests.rpc import TRIM_HORIZON, Client, TestTable

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

SHARDS_MAX = 12
HASHES = 2**64


class Resharder(Background):
    """Splits and merges the shards of a stream, one after the other, until the broker is gone."""

    def __init__(self, client: Client, table: TestTable, choices: random.Random) -> None:
        super().__init__(client)
        self._stream_arn = table.stream_arn
        self._choices = choices
        # Shards that were there when a split or merge was acknowledged.
        self.acknowledged: set[str] = set()

    def work(self) -> None:
        while True:
            shards = open_shards(all_shards(self.client, self._stream_arn))
            place = self._choices.randrange(len(shards))
            if len(shards) < SHARDS_MAX and (self._choices.random() < 0.6 or place + 1 == len(shards)):
                made = self.client.split(self._stream_arn, shards[place].shard_id)
            elif place + 1 < len(shards):
                made = [self.client.merge(self._stream_arn, shards[place].shard_id, shards[place + 1].shard_id)]
            else:
                continue
            self.acknowledged |= {shard.shard_id for shard in made}
            self.has_begun.set()


def open_shards(shards: list[Shard]) -> list[Shard]:
    """The open ones, in the order of their hashes."""
    is_open = [shard for shard in shards if not shard.sequence_number_range.ending_sequence_number]
    return sorted(is_open, key=lambda shard: shard.hash_key_range.starting_hash_key)


def all_shards(client: Client, stream_arn: str) -> list[Shard]:
    """The shards of a stream, over as many pages as that takes."""
    request, shards = DescribeStreamRequest(stream_arn=stream_arn), list[Shard]()
    while True:
        page = client.streams.DescribeStream(request).stream_description
        shards += page.shards
        if not page.last_evaluated_shard_id:
            return shards
        request.exclusive_start_shard_id = page.last_evaluated_shard_id


def read_whole(client: Client, stream_arn: str, shards: list[Shard]) -> list[Logged]:
    """The whole stream by one call; each record checked to lie in its shard, each item's records to come in order."""
    ranges = {shard.shard_id: shard.sequence_number_range for shard in shards}
    log: list[Logged] = []
    last: dict[object, str] = {}
    request = GetRecordsRequest(stream_arn=stream_arn, shard_iterator_type=TRIM_HORIZON)
    for response in client.streams.GetRecords(request):
        for entry in logged(response.records):
            bounds = ranges[response.shard_id]
            assert bounds.starting_sequence_number <= entry.sequence_number
            assert not bounds.ending_sequence_number or entry.sequence_number < bounds.ending_sequence_number
            key = frozenset(entry.change.keys.items())
            if last.get(key, "") >= entry.sequence_number:
                raise BrokenError("Ordered", f"{entry} came after {last[key]} of the same item")
            last[key] = entry.sequence_number
            log.append(entry)
    # One counter numbers the whole store.
    return sorted(log, key=lambda entry: entry.sequence_number)


async def test_splits_and_merges_survive_with_every_write_in_its_shard(
    crashing: BrokerProcess, table: TestTable, rng: random.Random, rounds: int
) -> None:
    load, seen = Load(table.name, rng), list[Logged]()
    for _ in range(max(2, rounds // 2)):
        with Client(crashing.grpc) as client:
            resharder = Resharder(client, table, rng)
            resharder.start()
            await load.run(crashing.grpc, resharder.then(crashing.kill), after_s=rng.uniform(0, 0.4))
            await asyncio.to_thread(resharder.finish)
        crashing.start()
        with Client(crashing.grpc) as client:
            shards = all_shards(client, table.stream_arn)
            assert resharder.acknowledged <= {shard.shard_id for shard in shards}
            ranges = [shard.hash_key_range for shard in open_shards(shards)]
            assert (ranges[0].starting_hash_key, ranges[-1].ending_hash_key) == (0, HASHES - 1)
            assert all(left.ending_hash_key + 1 == right.starting_hash_key for left, right in pairwise(ranges))
            log = read_whole(client, table.stream_arn, shards)
            check_resumable(log, [seen, log[len(seen) :]])
            judge(load, log, client, table)
        seen = log
    assert crashing.stop() == 0

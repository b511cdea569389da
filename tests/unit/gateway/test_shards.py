"""Shards as clients of AWS see them: a tree. Who reads each shard after its parent gets every record once, in order."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.encoding.items import canonicalize
from broker.gateway.aws.operations import DynamoDB
from broker.model.errors import ExpiredIteratorError, LimitExceededError, ResourceNotFoundError
from broker.model.tables import OPEN_SHARDS_MAX, ROLL_SECONDS_DEFAULT, Shard, Stream
from broker.model.turns import Turns
from broker.rpc.handlers import Drain
from broker.rpc.json_calls import JsonCalls
from broker.rpc.response_budget import ResponseBudget
from broker.rpc.stream_service import StreamService
from broker.streams import tail
from broker.streams.iterators import Iterators
from broker.streams.metering import Metering
from broker.tables.capacity import CapacityMetering
from broker.tables.operations import Put
from broker.tables.upkeep import Upkeep
from broker.telemetry import RpcCounter, Telemetry
from headrace.v1 import stream_service_pb2
from tests.unit.engine import REGION, TIMEOUT_S, Engine, run_on_new_store
from tests.values import item

KEYS = [f"key-{number}" for number in range(12)]
# Source: DynamoDB Streams API Reference, "Shard": ShardId, length 28 to 65.
SHARD_ID = re.compile(r"[a-zA-Z0-9-]{28,65}")


class Counters:
    """Takes the place of the metrics."""

    def rpc_counter(self, _: str) -> RpcCounter:
        return RpcCounter()


class Scene:
    """A table with a stream, its upkeep, and AWS's operations on them, all in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.upkeep = Upkeep(engine.catalog, engine.committer, engine.log, engine.store, engine.clock, lambda _: None)
        streams = StreamService(
            engine.catalog,
            engine.log,
            engine.watermarks,
            Iterators(b"s" * 32, engine.clock),
            Metering(),
            CapacityMetering(engine.clock),
            ResponseBudget(),
        )
        descriptor = stream_service_pb2.DESCRIPTOR.services_by_name["StreamService"]
        once, turns = {"GetRecords": streams.get_records_once}, Turns()
        calls = JsonCalls([(descriptor, streams)], once, Drain(), cast("Telemetry", Counters()), turns)
        self._operations = DynamoDB(calls, REGION, turns).streams
        self.written: dict[str, list[int]] = defaultdict(list)
        self._value = 0

    @property
    def stream(self) -> Stream:
        return self.engine.catalog.streams.all()[-1]

    @property
    def open(self) -> list[Shard]:
        return self.stream.open_shards

    async def aws(self, operation: str, **request: Any) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            return await self._operations[operation](request)

    async def write(self, *keys: str) -> None:
        table = self.engine.catalog.open_table("pets")
        for key in keys:
            self._value += 1
            image = item(id=key, value=self._value)
            await self.engine.committer.commit(Put(table, table.keys.of_item(image), canonicalize(image), None))
            self.written[key].append(self._value)

    async def split(self, place: int, share: float = 0.5) -> None:
        shard = self.open[place % len(self.open)]
        starting_hash = shard.first_hash + max(1, int((shard.last_hash - shard.first_hash + 1) * share))
        await self.engine.catalog.split_shard(self.stream, shard.shard_id, starting_hash)

    async def merge(self, place: int) -> None:
        place %= len(self.open) - 1
        left, right = self.open[place : place + 2]
        await self.engine.catalog.merge_shards(self.stream, left.shard_id, right.shard_id)

    async def roll(self) -> None:
        """Lets the time pass after which shards roll."""
        self.engine.clock.ms += ROLL_SECONDS_DEFAULT * 1000
        await self.upkeep.round()

    async def shards(self, page: int = 100) -> dict[str, dict[str, Any]]:
        """All shards, by id, as DescribeStream shows them page by page."""
        found: dict[str, dict[str, Any]] = {}
        arn = self.engine.catalog.stream_arn(self.stream)
        start: dict[str, Any] = {}
        while True:
            described = (await self.aws("DescribeStream", StreamArn=arn, Limit=page, **start))["StreamDescription"]
            for shard in described["Shards"]:
                assert shard["ShardId"] not in found
                found[shard["ShardId"]] = shard
            if "LastEvaluatedShardId" not in described:
                return found
            start = {"ExclusiveStartShardId": described["LastEvaluatedShardId"]}

    async def children(self, shard_id: str) -> list[str]:
        described = await self.aws(
            "DescribeStream",
            StreamArn=self.engine.catalog.stream_arn(self.stream),
            ShardFilter={"Type": "CHILD_SHARDS", "ShardId": shard_id},
        )
        return [shard["ShardId"] for shard in described["StreamDescription"]["Shards"]]

    async def iterator(self, shard_id: str, kind: str = "TRIM_HORIZON", **more: str) -> str:
        arn = self.engine.catalog.stream_arn(self.stream)
        response = await self.aws("GetShardIterator", StreamArn=arn, ShardId=shard_id, ShardIteratorType=kind, **more)
        iterator: str = response["ShardIterator"]
        return iterator


def check_tree(shards: dict[str, dict[str, Any]]) -> None:
    """Every shard has one parent at most, every closed one a child, and a child begins where its parent ends."""
    parents = {shard.get("ParentShardId") for shard in shards.values()}
    for shard_id, shard in shards.items():
        assert SHARD_ID.fullmatch(shard_id)
        assert shard.keys() <= {"ShardId", "ParentShardId", "SequenceNumberRange"}
        numbers = shard["SequenceNumberRange"]
        assert ("EndingSequenceNumber" not in numbers) or shard_id in parents
        parent = shards.get(shard.get("ParentShardId", ""))
        if parent is not None:
            assert parent["SequenceNumberRange"]["EndingSequenceNumber"] < numbers["StartingSequenceNumber"]


class Consumer:
    """Reads as a consumer of DynamoDB Streams does: a shard from its beginning, once its parent is read to its end."""

    def __init__(self, scene: Scene, *, closed_only: bool = False) -> None:
        self._scene = scene
        self._closed_only = closed_only
        self._iterators: dict[str, str | None] = {}
        # The last number of each shard that was read, to begin with the number at which it begins.
        self._checkpoints: dict[str, str] = {}
        self.values: dict[str, list[int]] = defaultdict(list)
        self.numbers: list[str] = []

    async def read(self, pages: int, limit: int, page_of_shards: int = 100) -> None:
        """Reads so many pages of each shard that may be read."""
        shards = await self._scene.shards(page_of_shards)
        check_tree(shards)
        for shard_id, shard in shards.items():
            if self._closed_only and "EndingSequenceNumber" not in shard["SequenceNumberRange"]:
                continue
            parent = shard.get("ParentShardId")
            if shard_id not in self._iterators and (parent not in shards or self._is_read(parent)):
                self._iterators[shard_id] = await self._scene.iterator(shard_id)
                self._checkpoints[shard_id] = shard["SequenceNumberRange"]["StartingSequenceNumber"]
            for _ in range(pages):
                iterator = self._iterators.get(shard_id)
                if iterator is None:
                    break
                try:
                    response = await self._scene.aws("GetRecords", ShardIterator=iterator, Limit=limit)
                except ExpiredIteratorError:
                    # It goes on from its checkpoint, as one that was started anew.
                    number = self._checkpoints[shard_id]
                    again = await self._scene.iterator(shard_id, "AFTER_SEQUENCE_NUMBER", SequenceNumber=number)
                    response = await self._scene.aws("GetRecords", ShardIterator=again, Limit=limit)
                self._take(shard_id, response, limit)

    async def read_all(self) -> None:
        """Reads until there is nothing new."""
        # As many as a shard with all records has, also if nothing in most of them is wanted.
        pages = sum(map(len, self._scene.written.values())) // tail.PAGE_RECORDS_MAX + 2
        while True:
            before = (len(self.numbers), list(self._iterators))
            await self.read(pages, 1000)
            if before == (len(self.numbers), list(self._iterators)):
                return

    def _is_read(self, shard_id: str | None) -> bool:
        return shard_id in self._iterators and self._iterators[shard_id] is None

    def _take(self, shard_id: str, response: dict[str, Any], limit: int) -> None:
        assert len(response["Records"]) <= limit
        for record in response["Records"]:
            image = record["dynamodb"]["NewImage"]
            self.values[image["id"]["S"]].append(int(image["value"]["N"]))
            self.numbers.append(record["dynamodb"]["SequenceNumber"])
            self._checkpoints[shard_id] = self.numbers[-1]
        self._iterators[shard_id] = response.get("NextShardIterator")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)),
        st.tuples(st.just("split"), st.tuples(st.integers(0, 100), st.sampled_from([0.5, 0.5, 0.25, 0.9]))),
        st.tuples(st.just("merge"), st.integers(0, 100)),
        st.tuples(st.just("roll"), st.none()),
        st.tuples(st.just("read"), st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9))),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([3, 10, 1000]))
def test_a_consumer_of_dynamodb_streams_gets_every_record_once_in_order_whatever_happens_to_the_shards(
    steps: list[tuple[str, Any]], page_records: int
) -> None:
    async def scenario(engine: Engine) -> None:
        await engine.table(max_shards=1)
        scene = Scene(engine)
        early = Consumer(scene)
        for kind, argument in steps:
            match kind:
                case "write":
                    await scene.write(*argument)
                case "split" if len(scene.open) < OPEN_SHARDS_MAX:
                    await scene.split(*argument)
                case "merge" if len(scene.open) > 1:
                    await scene.merge(argument)
                case "roll":
                    # Less than a day in all, so that nothing is trimmed.
                    if engine.clock.ms - scene.stream.create_time_ms < 19 * 3_600_000:
                        await scene.roll()
                case "read":
                    await early.read(*argument)
        await scene.write(*KEYS)
        for consumer in (early, Consumer(scene)):
            await consumer.read_all()
            assert consumer.values == scene.written
            assert len(set(consumer.numbers)) == len(consumer.numbers)

    with pytest.MonkeyPatch.context() as patch:
        # So that also what is found among records of other lanes takes several pages.
        patch.setattr(tail, "PAGE_RECORDS_MAX", page_records)
        run_on_new_store(scenario)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["write", "split", "merge", "roll", "age"]), st.integers(0, 100)), max_size=40)
)
def test_shards_are_a_tree_also_while_the_oldest_age_out(steps: list[tuple[str, int]]) -> None:
    async def scenario(engine: Engine) -> None:
        await engine.table(max_shards=1)
        scene = Scene(engine)
        for kind, number in steps:
            match kind:
                case "write":
                    await scene.write(KEYS[number % len(KEYS)])
                case "split" if len(scene.open) < OPEN_SHARDS_MAX:
                    await scene.split(number, 0.3)
                case "merge" if len(scene.open) > 1:
                    await scene.merge(number)
                case "roll":
                    await scene.roll()
                case "age":
                    engine.clock.ms += number * 3_600_000 // 4
                    await scene.upkeep.round()
            check_tree(await scene.shards())

    run_on_new_store(scenario)


async def merged(scene: Scene) -> None:
    """root -> left, right -> merged, with records in each."""
    await scene.write(*KEYS)
    await scene.split(0)
    await scene.write(*KEYS)
    await scene.merge(0)
    await scene.write(*KEYS)


async def test_a_merged_shard_is_shown_as_a_shard_for_each_of_its_parents(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    root, left, right, one, other = shards = await scene.shards()
    assert [shard.get("ParentShardId") for shard in shards.values()] == [None, root, root, left, right]
    # Without a merge ids are as they are.
    assert [root, left, right] == [shard.shard_id for shard in scene.stream.shards[:3]]
    assert one == f"{scene.stream.shards[3].shard_id}-{0:016x}"
    assert other == f"{scene.stream.shards[3].shard_id}-{2**63:016x}"
    assert [await scene.children(shard_id) for shard_id in shards] == [[left, right], [one], [other], [], []]


async def test_a_split_of_a_merged_shard_parts_its_lanes_where_it_was_merged(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, other = await scene.shards()
    await scene.split(0)
    *_, left, right = shards = await scene.shards()
    # They are whole shards again.
    assert [left, right] == [shard.shard_id for shard in scene.open]
    assert (shards[left]["ParentShardId"], shards[right]["ParentShardId"]) == (one, other)


async def test_a_split_beside_the_seam_splits_one_of_the_lanes(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, other = await scene.shards()
    await scene.split(0, share=0.25)
    shards = await scene.shards()
    assert {shard_id: shard["ParentShardId"] for shard_id, shard in list(shards.items())[-3:]} == {
        scene.open[0].shard_id: one,
        f"{scene.open[1].shard_id}-{scene.open[1].first_hash:016x}": one,
        f"{scene.open[1].shard_id}-{2**63:016x}": other,
    }


async def test_a_rolled_shard_has_one_child_lane_for_lane(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, other = await scene.shards()
    await scene.roll()
    *_, later, other_later = shards = await scene.shards()
    assert (shards[later]["ParentShardId"], shards[other_later]["ParentShardId"]) == (one, other)
    assert "EndingSequenceNumber" in shards[one]["SequenceNumberRange"]


async def test_lanes_divide_the_records_of_a_merged_shard(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, other = await scene.shards()
    halves = []
    for lane in (one, other):
        response = await scene.aws("GetRecords", ShardIterator=await scene.iterator(lane))
        halves.append({record["dynamodb"]["Keys"]["id"]["S"] for record in response["Records"]})
        assert "NextShardIterator" in response
    keys = engine.catalog.open_table("pets").keys
    assert halves[0] == {key for key in KEYS if keys.of_key(item(id=key)).hash < 2**63}
    assert halves[0] | halves[1] == set(KEYS)
    assert not halves[0] & halves[1]


async def test_a_page_of_a_lane_is_bounded_and_moves_on_also_if_nothing_in_it_is_wanted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "PAGE_RECORDS_MAX", 4)
    await engine.table()
    scene = Scene(engine)
    await scene.split(0)
    await scene.merge(0)
    keys = engine.catalog.open_table("pets").keys
    low = next(key for key in KEYS if keys.of_key(item(id=key)).hash < 2**63)
    high = next(key for key in KEYS if keys.of_key(item(id=key)).hash >= 2**63)
    await scene.write(*[low] * 11, high)
    *_, lane = await scene.shards()
    iterator, counts = await scene.iterator(lane), []
    for _ in range(4):
        response = await scene.aws("GetRecords", ShardIterator=iterator)
        counts.append(len(response["Records"]))
        iterator = response["NextShardIterator"]
    assert counts == [0, 0, 1, 0]


async def test_an_iterator_of_a_lane_may_begin_at_any_place(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, other = await scene.shards()
    whole = await scene.aws("GetRecords", ShardIterator=await scene.iterator(scene.open[0].shard_id))
    for lane in (one, other):
        records = (await scene.aws("GetRecords", ShardIterator=await scene.iterator(lane)))["Records"]
        mine = [record["dynamodb"]["SequenceNumber"] for record in records]
        # The numbers of the other lane's records are places too.
        for number in [record["dynamodb"]["SequenceNumber"] for record in whole["Records"]]:
            for kind, expected in (
                ("AT_SEQUENCE_NUMBER", [each for each in mine if each >= number]),
                ("AFTER_SEQUENCE_NUMBER", [each for each in mine if each > number]),
            ):
                iterator = await scene.iterator(lane, kind, SequenceNumber=number)
                found = (await scene.aws("GetRecords", ShardIterator=iterator))["Records"]
                assert [record["dynamodb"]["SequenceNumber"] for record in found] == expected
        latest = await scene.iterator(lane, "LATEST")
        assert (await scene.aws("GetRecords", ShardIterator=latest))["Records"] == []


async def test_what_is_no_lane_of_the_stream_is_refused(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await merged(scene)
    *_, one, _ = await scene.shards()
    root = scene.stream.shards[0].shard_id
    for shard_id in (one[:-1] + "1", one + "0", f"{root}-{0:016x}", one.upper()):
        with pytest.raises(ResourceNotFoundError):
            await scene.iterator(shard_id)


async def test_a_reader_of_closed_shards_only_gets_all_records_once_their_shards_have_rolled(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)
    await scene.write(*KEYS)
    reader = Consumer(scene, closed_only=True)
    await reader.read_all()
    assert reader.values == {}
    for _ in range(3):
        await scene.roll()
        written = {key: list(values) for key, values in scene.written.items()}
        await scene.write(*KEYS)
        await reader.read_all()
        assert reader.values == written


async def test_a_stream_has_at_most_128_lanes_and_a_split_where_it_was_merged_makes_none(engine: Engine) -> None:
    await engine.table(min_shards=64, max_shards=64)
    scene = Scene(engine)
    # 64 lanes in 64 shards, then 32 more, and 32 more, with every two shards merged in between.
    for share in (0.3, 0.1):
        for place in range(32):
            await scene.merge(place)
        for place in range(0, 64, 2):
            await scene.split(place, share)
    assert sum(1 + len(shard.seams) for shard in scene.open) == 128
    await scene.merge(0)
    shard = scene.open[0]
    with pytest.raises(LimitExceededError) as refused:
        await engine.catalog.split_shard(scene.stream, shard.shard_id, shard.seams[0] + 1)
    assert (refused.value.metadata["field"], refused.value.metadata["limit"]) == ("new_starting_hash_key", "128")
    await engine.catalog.split_shard(scene.stream, shard.shard_id, shard.seams[1])
    assert [len(shard.seams) for shard in scene.open[:2]] == [1, len(shard.seams) - 2]


async def test_lanes_of_closed_shards_are_bounded_too(engine: Engine) -> None:
    await engine.table()
    scene = Scene(engine)

    async def split_and_merge() -> None:
        for lanes in range(2, 129):
            await scene.split(0, share=1 / lanes)
            await scene.merge(0)

    with pytest.raises(LimitExceededError) as refused:
        await split_and_merge()
    assert refused.value.metadata["limit"] == "4096"
    held = await scene.shards()
    check_tree(held)
    assert 4096 <= len(held) < 4096 + 128

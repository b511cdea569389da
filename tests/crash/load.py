"""Writers that write until the broker is gone, and remember of each write whether it was acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import grpc

from headrace.v1 import item_service_pb2_grpc
from headrace.v1.item_service_pb2 import WriteItemsRequest, WriteOperation
from tests.guarantees import Write
from tests.model import Delete, Operation, Put, Update
from tests.properties.operations import to_write
from tests.values import Attributes, attributes, value

UNARY_WRITERS: Final = 12
STREAM_WRITERS: Final = 4
ITEMS_PER_WRITER: Final = 4
BATCHES_IN_FLIGHT: Final = 4
# Some batches of one block, some of hundreds; some items of a few bytes, some that fill a block alone.
BATCH_SIZES: Final = (1, 3, 25, 150)
TEXT_SIZES: Final = (0, 20, 400, 400, 400, 30_000)


@dataclass(slots=True)
class Writer:
    """One writer with items of its own, so that it knows the order of their writes over all lives of the broker.

    Every write has an outcome that no other has, except that a delete leaves nothing; and a delete is made only of an
    item that is surely there, so that it surely changes something.
    """

    name: str
    choices: random.Random
    writes: list[Write] = field(default_factory=list)
    _count: int = 0
    _present: dict[str, Attributes] = field(default_factory=dict)

    def begin(self) -> None:
        """Starts a life of the broker: what is there is not known any more."""
        self._present.clear()

    def next_write(self) -> tuple[Operation, Write]:
        """What to write next, and what it will be remembered as if it is not acknowledged."""
        self._count += 1
        item_id = f"{self.name}/{self.choices.randrange(ITEMS_PER_WRITER)}"
        present = self._present.get(item_id)
        chance = self.choices.random()
        operation: Operation
        outcome: Attributes | None
        if present is not None and chance < 0.15:
            operation, outcome = Delete(key=attributes(id=item_id)), None
        elif present is not None and chance < 0.4:
            operation = Update(key=attributes(id=item_id), sets=attributes(n=self._count))
            outcome = present | attributes(n=self._count)
        else:
            outcome = attributes(id=item_id, n=self._count, text="x" * self.choices.choice(TEXT_SIZES))
            operation = Put(item=outcome)
        if outcome is None:
            del self._present[item_id]
        else:
            self._present[item_id] = outcome
        return operation, Write(key=(value(item_id),), outcome=outcome, acknowledged=False)


class Load:
    """All writers on one table. `writes` is their history over all lives of the broker, in each writer's order."""

    def __init__(self, table_name: str, choices: random.Random) -> None:
        self._table_name = table_name
        self._unary = [Writer(f"unary-{n}", random.Random(choices.random())) for n in range(UNARY_WRITERS)]
        self._streams = [Writer(f"stream-{n}", random.Random(choices.random())) for n in range(STREAM_WRITERS)]
        self.acknowledged = 0
        # Of this life.
        self._errors: list[str] = []

    @property
    def writes(self) -> list[Write]:
        return [write for writer in (*self._unary, *self._streams) for write in writer.writes]

    async def run(self, endpoint: str, crash: Callable[[], None], *, after_s: float) -> None:
        """Writes with everything at once and lets the broker crash so long after the first acknowledgement."""
        first = asyncio.Event()
        self._errors.clear()
        # On a connection of its own, and not on one that still knows the broker of the last life as gone.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(endpoint, options=options) as channel:
            await asyncio.wait_for(channel.channel_ready(), 15)
            stub: item_service_pb2_grpc.ItemServiceAsyncStub = item_service_pb2_grpc.ItemServiceStub(channel)  # type: ignore[assignment]
            async with asyncio.TaskGroup() as tasks:
                for writer in (*self._unary, *self._streams):
                    writer.begin()
                for writer in self._unary:
                    tasks.create_task(self._write_one_by_one(stub, writer, first))
                for writer in self._streams:
                    tasks.create_task(self._write_batches(stub, writer, first))
                try:
                    await asyncio.wait_for(first.wait(), 15)
                except TimeoutError:
                    raise AssertionError(f"no write was acknowledged within 15 s; errors: {self._errors}") from None
                # The moment of the crash is what the test varies; nothing waits for the time to pass.
                await asyncio.sleep(after_s)
                await asyncio.to_thread(crash)

    async def _write_one_by_one(
        self, stub: item_service_pb2_grpc.ItemServiceAsyncStub, writer: Writer, first: asyncio.Event
    ) -> None:
        while True:
            operation, write = writer.next_write()
            place = len(writer.writes)
            writer.writes.append(write)
            try:
                await self._say(stub, to_write(operation, self._table_name))
            except grpc.aio.AioRpcError as error:
                self._expect_crash(error)
                return
            writer.writes[place] = replace(write, acknowledged=True)
            self.acknowledged += 1
            first.set()

    async def _write_batches(
        self, stub: item_service_pb2_grpc.ItemServiceAsyncStub, writer: Writer, first: asyncio.Event
    ) -> None:
        room = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        sent: list[range] = []

        async def batches() -> AsyncIterator[WriteItemsRequest]:
            while True:
                await room.acquire()
                chosen = [writer.next_write() for _ in range(writer.choices.choice(BATCH_SIZES))]
                sent.append(range(len(writer.writes), len(writer.writes) + len(chosen)))
                writer.writes += [write for _, write in chosen]
                yield WriteItemsRequest(
                    table_name=self._table_name, operations=[to_write(operation) for operation, _ in chosen]
                )

        answered = 0
        try:
            async for response in stub.WriteItems(batches()):
                assert not any(result.HasField("error") for result in response.results), response
                for place in sent[answered]:
                    writer.writes[place] = replace(writer.writes[place], acknowledged=True)
                self.acknowledged += len(sent[answered])
                answered += 1
                first.set()
                room.release()
        except grpc.aio.AioRpcError as error:
            self._expect_crash(error)

    def _expect_crash(self, error: grpc.aio.AioRpcError) -> None:
        """A broker that is killed is UNAVAILABLE; anything else is a fault of its own."""
        self._errors.append(f"{error.code()}: {error.details()}")
        # grpc.aio says this by itself when it is about to send on a connection that just broke.
        is_broken_send = error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"
        # gRPC says this by itself to a call that arrives in the moment in which the server shuts down.
        is_late_call = error.code() is grpc.StatusCode.CANCELLED
        if error.code() is not grpc.StatusCode.UNAVAILABLE and not is_broken_send and not is_late_call:
            raise error

    @staticmethod
    async def _say(stub: item_service_pb2_grpc.ItemServiceAsyncStub, write: WriteOperation) -> None:
        match write.WhichOneof("operation"):
            case "put":
                await stub.PutItem(write.put)
            case "delete":
                await stub.DeleteItem(write.delete)
            case "update":
                await stub.UpdateItem(write.update)

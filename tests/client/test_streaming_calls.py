"""What _concurrency hides of grpc.aio and grpc: the true end of a call, waits that end, calls that close."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import Any

import grpc
import pytest

from headrace import errors
from headrace._channel import open_async_channel, open_channel
from headrace._concurrency import AsyncDuplex, Duplex
from headrace._stubs import AsyncStubs, Stubs
from headrace.v1 import consumer_service_pb2 as pb
from tests.client.fake_broker import abort, fake_broker

ROUNDS = 30


async def refuse(requests: object, context: Any) -> None:
    del requests
    await context.read()
    await context.write(pb.ConsumeResponse())
    await abort(context, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


async def silent(requests: object, context: Any) -> None:
    del requests
    await context.read()
    await asyncio.Event().wait()


async def send_for_ever(duplex: AsyncDuplex[pb.ConsumeRequest, pb.ConsumeResponse]) -> None:
    while True:
        await duplex.send(pb.ConsumeRequest())


# grpc.aio 1.85 says INTERNAL when a write meets the end of the call, once in some five times: hence the rounds.
async def test_a_write_that_meets_the_end_of_the_call_raises_the_true_status() -> None:
    async with fake_broker(Consume=refuse) as endpoint, open_async_channel(endpoint) as channel:
        for _ in range(ROUNDS):
            duplex = AsyncDuplex(AsyncStubs(channel).consumers.Consume)
            await duplex.send(pb.ConsumeRequest())
            await duplex.receive()
            with pytest.raises(errors.ResourceNotFoundError):
                await send_for_ever(duplex)
            with pytest.raises(errors.ResourceNotFoundError):
                await duplex.receive()
            await duplex.close()


async def test_a_silent_broker_is_given_up() -> None:
    async with fake_broker(Consume=silent) as endpoint, open_async_channel(endpoint) as channel:
        duplex = AsyncDuplex(AsyncStubs(channel).consumers.Consume)
        await duplex.send(pb.ConsumeRequest())
        with pytest.raises(errors.UnavailableError, match="nothing was heard"):
            await duplex.receive(0.05)
        with pytest.raises(errors.UnavailableError):
            await duplex.send(pb.ConsumeRequest())
        await duplex.close()


async def test_a_silent_broker_is_given_up_by_a_thread_too() -> None:
    def talk(endpoint: str) -> None:
        with open_channel(endpoint) as channel:
            duplex = Duplex(Stubs(channel).consumers.Consume)
            duplex.send(pb.ConsumeRequest())
            with pytest.raises(errors.UnavailableError, match="nothing was heard"):
                duplex.receive(0.05)
            with pytest.raises(errors.UnavailableError):
                duplex.send(pb.ConsumeRequest())
            duplex.close()

    async with fake_broker(Consume=silent) as endpoint:
        await asyncio.to_thread(talk, endpoint)


# Leaving a session waits for the broker to take the last acks, but not for one that never ends the call.
async def test_finishing_is_bounded() -> None:
    def talk(endpoint: str) -> None:
        with open_channel(endpoint) as channel:
            duplex = Duplex(Stubs(channel).consumers.Consume)
            duplex.send(pb.ConsumeRequest())
            duplex.finish(0.05)
            assert duplex.receive() is None

    async with fake_broker(Consume=silent) as endpoint, open_async_channel(endpoint) as channel:
        duplex = AsyncDuplex(AsyncStubs(channel).consumers.Consume)
        await duplex.send(pb.ConsumeRequest())
        async with asyncio.timeout(5):
            await duplex.finish(0.05)
            assert await duplex.receive() is None
            await asyncio.to_thread(talk, endpoint)


# As Ctrl-C does it to a wait in the main thread: leaving the session must not wait for responses again.
async def test_a_call_whose_wait_is_interrupted_can_be_finished() -> None:
    def talk(endpoint: str) -> None:
        with open_channel(endpoint) as channel:
            duplex = Duplex(Stubs(channel).consumers.Consume)
            duplex.send(pb.ConsumeRequest())
            thread_id, exception = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(KeyboardInterrupt)
            timer = threading.Timer(0.2, ctypes.pythonapi.PyThreadState_SetAsyncExc, (thread_id, exception))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                duplex.receive()
            duplex.finish(0.05)
            with pytest.raises(errors.UnavailableError, match="interrupted"):
                duplex.receive()

    async with fake_broker(Consume=silent) as endpoint:
        await asyncio.to_thread(talk, endpoint)


async def test_closing_ends_a_wait_for_a_response() -> None:
    async with fake_broker(Consume=silent) as endpoint, open_async_channel(endpoint) as channel:
        duplex = AsyncDuplex(AsyncStubs(channel).consumers.Consume)
        await duplex.send(pb.ConsumeRequest())
        async with asyncio.timeout(5):
            waiting = asyncio.create_task(duplex.receive())
            await asyncio.sleep(0)
            await duplex.close()
            assert await waiting is None


async def test_closing_ends_the_wait_of_another_thread() -> None:
    def talk(endpoint: str) -> None:
        with open_channel(endpoint) as channel:
            duplex = Duplex(Stubs(channel).consumers.Consume)
            duplex.send(pb.ConsumeRequest())
            answers: list[object] = []
            waiting = threading.Thread(target=lambda: answers.append(duplex.receive()))
            waiting.start()
            duplex.close()
            waiting.join(5)
            assert answers == [None]

    async with fake_broker(Consume=silent) as endpoint:
        await asyncio.to_thread(talk, endpoint)

"""Fixtures of the API tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.v1 import consumer_service_pb2 as pb
from headrace.v1.consumer_service_pb2 import ConsumeStart
from tests.consuming import TRIM_HORIZON, Member
from tests.rpc import Client, TestTable


@pytest.fixture
def join(client: Client, table: TestTable) -> Iterator[Callable[..., Member]]:
    """Joins a group of the test's table: join(group, position, **fields of ConsumeStart)."""
    members: list[Member] = []

    def joined(
        group: str,
        position: pb.StartingPosition.ValueType = TRIM_HORIZON,
        *,
        max_in_flight_records: int | None = None,
        max_batch_records: int | None = None,
        member_name: str = "",
        starting_sequence_number: str | None = None,
        **more: Any,
    ) -> Member:
        start = ConsumeStart(
            table_name=table.name,
            group_name=group,
            member_name=member_name,
            starting_position=position,
            starting_sequence_number=starting_sequence_number,
            max_in_flight_records=max_in_flight_records,
            max_batch_records=max_batch_records,
            **more,
        )
        members.append(Member(client, start))
        return members[-1]

    yield joined
    for member in members:
        member.close()

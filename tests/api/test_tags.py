"""Tags of tables. Source: DynamoDB API Reference, TagResource, UntagResource, ListTagsOfResource; Guide, "Tagging"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.v1 import table_pb2
from headrace.v1.table_service_pb2 import (
    DescribeTableRequest,
    ListTagsOfResourceRequest,
    TagResourceRequest,
    UntagResourceRequest,
)
from tests.broker_process import BrokerProcess
from tests.rpc import Client, create_table_request, refused, unique_name

LONGEST = {"k" * 128: "v" * 256, "empty": "", "\u00e9" * 128: "\u00e9" * 256}


def messages(tags: dict[str, str]) -> list[table_pb2.Tag]:
    return [table_pb2.Tag(key=key, value=value) for key, value in tags.items()]


def numbered(count: int, prefix: str = "key") -> dict[str, str]:
    return {f"{prefix}-{number:02}": str(number) for number in range(count)}


def tag(client: Client, arn: str, tags: dict[str, str]) -> None:
    client.tables.TagResource(TagResourceRequest(resource_arn=arn, tags=messages(tags)))


def untag(client: Client, arn: str, *keys: str) -> None:
    client.tables.UntagResource(UntagResourceRequest(resource_arn=arn, tag_keys=keys))


def pages(client: Client, arn: str) -> list[list[tuple[str, str]]]:
    token: str | None = None
    listed = []
    while True:
        page = client.tables.ListTagsOfResource(ListTagsOfResourceRequest(resource_arn=arn, next_token=token))
        listed.append([(each.key, each.value) for each in page.tags])
        token = page.next_token
        if not token:
            return listed


def tags_of(client: Client, arn: str) -> dict[str, str]:
    return dict(pair for page in pages(client, arn) for pair in page)


def new_table(client: Client, tags: dict[str, str] | None = None) -> str:
    """The ARN of a new table."""
    request = create_table_request(unique_name())
    request.tags.extend(messages(tags or {}))
    return client.tables.CreateTable(request).table_description.table_arn


def test_tags_are_added_replaced_and_removed(client: Client) -> None:
    arn = new_table(client, {"team": "blue", "stage": "test"})
    tag(client, arn, {"team": "red", "cost": "low"})
    assert tags_of(client, arn) == {"cost": "low", "stage": "test", "team": "red"}
    untag(client, arn, "team", "missing")
    assert tags_of(client, arn) == {"cost": "low", "stage": "test"}


@pytest.mark.parametrize("count", [0, 1, 10, 11, 50])
def test_tags_are_listed_by_key_ten_at_a_time(client: Client, count: int) -> None:
    tags = numbered(count)
    listed = pages(client, new_table(client, tags))
    assert [pair for page in listed for pair in page] == list(tags.items())
    assert [len(page) for page in listed] == [10] * (count // 10) + ([count % 10] if count % 10 or not count else [])


def test_the_longest_tags_are_taken(client: Client) -> None:
    arn = new_table(client)
    tag(client, arn, LONGEST)
    assert tags_of(client, arn) == LONGEST == tags_of(client, new_table(client, LONGEST))


@pytest.mark.parametrize(
    ("tags", "field", "words"),
    [
        ([("", "v")], "tags.key", "greater than or equal to 1"),
        ([("k" * 129, "v")], "tags.key", "less than or equal to 128"),
        ([("k", "v" * 257)], "tags.value", "less than or equal to 256"),
        ([("aws:k", "v")], "tags.key", "must not begin with 'aws:'"),
        ([("Aws:k", "v")], "tags.key", "must not begin with 'aws:'"),
        ([("k", "aws:v")], "tags.value", "must not begin with 'aws:'"),
        ([("k!", "v")], "tags.key", "letters, white space, numbers"),
        ([("k", "100%")], "tags.value", "letters, white space, numbers"),
        ([("k", "v"), ("k", "w")], "tags.key", "Duplicate tag key: k"),
        (list(numbered(51).items()), "tags", "less than or equal to 50"),
    ],
    ids=[
        "empty key",
        "long key",
        "long value",
        "reserved key",
        "reserved key in other case",
        "reserved value",
        "sign in a key",
        "sign in a value",
        "same key",
        "51",
    ],
)
def test_tags_with_a_fault_are_not_added(client: Client, tags: list[tuple[str, str]], field: str, words: str) -> None:
    arn = new_table(client, {"team": "blue"})
    given = [table_pb2.Tag(key="fine", value="fine"), *(table_pb2.Tag(key=key, value=value) for key, value in tags)]
    if len(tags) > 50:
        given = given[1:]
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=words):
        client.tables.TagResource(TagResourceRequest(resource_arn=arn, tags=given))
    assert tags_of(client, arn) == {"team": "blue"}
    request = create_table_request(unique_name())
    request.tags.extend(given)
    with refused("INVALID_ARGUMENT", "VALIDATION", field=field, says=words):
        client.tables.CreateTable(request)
    with refused("NOT_FOUND", "RESOURCE_NOT_FOUND"):
        client.tables.DescribeTable(DescribeTableRequest(table_name=request.table_name))


def test_a_table_has_at_most_50_tags(client: Client) -> None:
    arn = new_table(client, numbered(49))
    with refused("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", field="tags", limit=50):
        tag(client, arn, {"one": "", "two": ""})
    assert tags_of(client, arn) == numbered(49)
    tag(client, arn, {"one": ""})
    # Replacing is not adding.
    tag(client, arn, {"one": "1", "key-00": "new"})
    with refused("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED"):
        tag(client, arn, {"two": ""})
    assert tags_of(client, arn) == {**numbered(49), "one": "1", "key-00": "new"}


def test_a_request_must_name_tags(client: Client) -> None:
    arn = new_table(client)
    with refused("INVALID_ARGUMENT", "VALIDATION", field="tags", says="Atleast one Tag needs to be provided as Input."):
        tag(client, arn, {})
    with refused("INVALID_ARGUMENT", "VALIDATION", field="tag_keys", says="Atleast one Tag Key needs to be provided"):
        untag(client, arn)


@pytest.mark.parametrize("keys", [[""], ["k" * 129], list(numbered(51))], ids=["empty", "long", "51"])
def test_keys_with_a_fault_remove_nothing(client: Client, keys: list[str]) -> None:
    arn = new_table(client, {"key-00": "0"})
    with refused("INVALID_ARGUMENT", "VALIDATION", field="tag_keys"):
        untag(client, arn, "key-00", *keys)
    assert tags_of(client, arn) == {"key-00": "0"}


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda _: "", "INVALID_ARGUMENT", "VALIDATION"),
        (lambda arn: arn.rpartition("/")[2], "INVALID_ARGUMENT", "VALIDATION"),
        (lambda arn: arn.rpartition("/")[0] + "/", "INVALID_ARGUMENT", "VALIDATION"),
        (lambda arn: arn.replace("dynamodb", "sqs"), "INVALID_ARGUMENT", "VALIDATION"),
        (lambda arn: arn + "x", "NOT_FOUND", "RESOURCE_NOT_FOUND"),
        (lambda arn: arn + "/index/none", "NOT_FOUND", "RESOURCE_NOT_FOUND"),
        (lambda arn: arn.replace("dynamodb:", "dynamodb:other-"), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
        (lambda arn: arn.replace(":0000", ":1234"), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
    ],
    ids=["empty", "name", "no name", "service", "other table", "index", "other region", "other account"],
)
def test_only_a_table_of_this_region_is_tagged(
    client: Client, change: Callable[[str], str], code: str, reason: str
) -> None:
    arn = change(new_table(client))
    for call in (
        lambda: tag(client, arn, {"k": "v"}),
        lambda: untag(client, arn, "k"),
        lambda: tags_of(client, arn),
    ):
        with refused(code, reason):
            call()


def test_a_restart_keeps_tags(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker:
        with Client(broker.grpc) as client:
            arn = new_table(client, LONGEST)
        broker.stop()
        broker.start()
        with Client(broker.grpc) as client:
            assert tags_of(client, arn) == LONGEST

"""PynamoDB, as an application uses it: models, an index, conditions, updates, batches, transactions."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from pynamodb.attributes import (
    JSONAttribute,
    ListAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
    UTCDateTimeAttribute,
)
from pynamodb.connection import Connection
from pynamodb.exceptions import DoesNotExist, PutError, TransactWriteError
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex
from pynamodb.models import Model
from pynamodb.transactions import TransactGet, TransactWrite

HOST = os.environ["AWS_ENDPOINT_URL"]
REGION = os.environ["AWS_DEFAULT_REGION"]


class ByForum(GlobalSecondaryIndex):
    class Meta:
        index_name = "by_forum"
        projection = AllProjection()
        read_capacity_units = 5
        write_capacity_units = 5

    forum = UnicodeAttribute(hash_key=True)
    views = NumberAttribute(range_key=True)


class Thread(Model):
    class Meta:
        table_name = "pynamodb-threads"
        host = HOST
        region = REGION
        stream_view_type = "NEW_AND_OLD_IMAGES"

    owner = UnicodeAttribute(hash_key=True)
    subject = UnicodeAttribute(range_key=True)
    forum = UnicodeAttribute()
    views = NumberAttribute(default=0)
    tags = UnicodeSetAttribute(null=True)
    replies = ListAttribute(default=list)
    extra = JSONAttribute(null=True)
    written = UTCDateTimeAttribute(null=True)
    by_forum = ByForum()


def main() -> None:
    Thread.create_table(read_capacity_units=100, write_capacity_units=100, wait=True)
    assert Thread.exists()
    assert Thread.describe_table()["TableStatus"] == "ACTIVE"
    written = datetime(2026, 11, 25, 12, tzinfo=UTC)
    first = Thread("ann", "hello", forum="general", tags={"a", "b"}, extra={"deep": [1, None]}, written=written)
    first.save(Thread.owner.does_not_exist())
    try:
        Thread("ann", "hello", forum="other").save(Thread.owner.does_not_exist())
    except PutError as error:
        assert error.cause_response_code == "ConditionalCheckFailedException", error
    else:
        raise AssertionError("the condition does not hold")
    found = Thread.get("ann", "hello")
    assert (found.tags, found.extra, found.written) == ({"a", "b"}, {"deep": [1, None]}, written)

    found.update(
        actions=[
            Thread.views.set(Thread.views + 7),
            Thread.replies.set(Thread.replies.append(["welcome"])),
            Thread.tags.delete({"a"}),
        ],
        condition=Thread.views == 0,
    )
    assert (found.views, found.replies, found.tags) == (7, ["welcome"], {"b"})

    with Thread.batch_write() as batch:
        for number in range(60):
            batch.save(Thread("bob", f"{number:03}", forum="general", views=number))
    assert Thread.count("bob") == 60
    newest = list(Thread.query("bob", Thread.subject >= "050", scan_index_forward=False, limit=3, page_size=2))
    assert [thread.subject for thread in newest] == ["059", "058", "057"]
    popular = Thread.by_forum.query("general", ByForum.views > 56)
    assert [thread.views for thread in popular] == [57, 58, 59]
    assert len(list(Thread.scan(Thread.forum == "general", page_size=10))) == 61
    keys = [("bob", f"{number:03}") for number in range(0, 60, 10)] + [("bob", "nothing")]
    assert len(list(Thread.batch_get(keys))) == 6

    connection = Connection(region=REGION, host=HOST)
    with TransactWrite(connection=connection) as transaction:
        transaction.update(found, actions=[Thread.views.add(1)])
        transaction.delete(Thread("bob", "000", forum="general"))
    try:
        with TransactWrite(connection=connection) as transaction:
            transaction.save(Thread("cid", "new", forum="general"))
            transaction.condition_check(Thread, "ann", "hello", condition=Thread.views == 7)
    except TransactWriteError as error:
        # Checks come first, whatever the order in the code.
        assert [reason and reason.code for reason in error.cancellation_reasons] == ["ConditionalCheckFailed", None]
    else:
        raise AssertionError("the condition does not hold")
    with TransactGet(connection=connection) as reading:
        ann, cid = reading.get(Thread, "ann", "hello"), reading.get(Thread, "cid", "new")
    assert ann.get().views == 8
    try:
        cid.get()
    except Thread.DoesNotExist:
        pass
    else:
        raise AssertionError("the transaction was cancelled")
    found.refresh()
    found.delete(Thread.views == 8)
    try:
        Thread.get("ann", "hello")
    except DoesNotExist:
        pass
    else:
        raise AssertionError("the thread was deleted")
    Thread.delete_table()
    print("done")


if __name__ == "__main__":
    main()

"""ItemService: requests to operations, the hottest path of the broker.

Requests are those of `mirror`: where the proto says Item they hold its bytes, which no generated type can say.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from broker.encoding.items import canonical_value, canonicalize, parse_item
from broker.encoding.varint import field_bytes
from broker.expressions.parse import Placeholders, parse_condition, parse_update
from broker.expressions.update import NO_UPDATE
from broker.model.errors import HeadraceError, ThrottlingError, ValidationError
from broker.rpc.handlers import pipeline
from broker.rpc.status import to_message
from broker.tables.operations import Change, Delete, Put
from headrace.v1 import item_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.encoding.keys import ItemKey
    from broker.expressions.condition import Condition
    from broker.expressions.update import Update
    from broker.rpc.status import Context
    from broker.storage.commit import Committer, Operation
    from broker.tables.catalog import Catalog, OpenTable
    from broker.tables.read import ItemReader

BATCH_WRITE_OPERATIONS_MAX: Final = 25
WRITE_ITEMS_OPERATIONS_MAX: Final = 1000

# An absent response, and an element of `repeated WriteResult results = 1` that says: written.
_EMPTY: Final = b""
_WRITTEN: Final = b"\x0a\x00"
_FIELD_1: Final = b"\x0a"


class ItemService:
    """Implements headrace.v1.ItemService."""

    def __init__(self, catalog: Catalog, committer: Committer, reader: ItemReader) -> None:
        self._catalog = catalog
        self._committer = committer
        self._reader = reader

    async def PutItem(self, request: Any) -> bytes:
        """Creates or replaces an item."""
        await self._committer.commit(self._put(request, request.table_name)[1])
        return _EMPTY

    async def GetItem(self, request: Any) -> bytes:
        """Reads an item."""
        key = _key(request, self._catalog.open_table(request.table_name))
        item = await self._reader.get(key)
        return _EMPTY if item is None else field_bytes(_FIELD_1, item)

    async def UpdateItem(self, request: Any) -> bytes:
        """Changes attributes of an item."""
        await self._committer.commit(self._update(request, request.table_name)[1])
        return _EMPTY

    async def DeleteItem(self, request: Any) -> bytes:
        """Removes an item."""
        await self._committer.commit(self._delete(request, request.table_name)[1])
        return _EMPTY

    async def BatchWriteItem(self, request: Any) -> bytes:
        """Puts and deletes up to 25 items."""
        count = len(request.operations)
        if not 1 <= count <= BATCH_WRITE_OPERATIONS_MAX:
            raise ValidationError(
                f"operations must have 1 to {BATCH_WRITE_OPERATIONS_MAX} elements, has {count}",
                field="operations",
                limit=BATCH_WRITE_OPERATIONS_MAX,
            )
        operations: list[Operation] = []
        keys: set[bytes] = set()
        for write in request.operations:
            if (
                write.WhichOneof("operation") == "update"
                or write.put.condition_expression
                or write.delete.condition_expression
            ):
                raise ValidationError("A batch holds puts and deletes without conditions", field="operations")
            key, operation = self._operation(write, "")
            if key.stored in keys:
                raise ValidationError("Provided list of item keys contains duplicates", field="operations")
            keys.add(key.stored)
            operations.append(operation)
        try:
            results = await self._committer.submit(operations)
        except ThrottlingError:
            # The field of the response has the number of the request's.
            unprocessed: bytes = request.SerializeToString()
            return unprocessed
        for result in results:
            if isinstance(result, HeadraceError):
                raise result
        return _EMPTY

    async def WriteItems(self, iterator: AsyncIterator[Any], context: Context) -> None:
        """Carries out batch after batch."""
        await pipeline(iterator, context, self._start_batch)

    async def _start_batch(self, request: Any) -> asyncio.Future[Any]:
        count = len(request.operations)
        if not 1 <= count <= WRITE_ITEMS_OPERATIONS_MAX:
            raise ValidationError(
                f"operations must have 1 to {WRITE_ITEMS_OPERATIONS_MAX} elements, has {count}",
                field="operations",
                limit=WRITE_ITEMS_OPERATIONS_MAX,
            )
        table_name = request.table_name
        operations: list[Operation] = []
        refused: dict[int, HeadraceError] = {}
        for index, write in enumerate(request.operations):
            try:
                operations.append(self._operation(write, table_name)[1])
            except HeadraceError as error:
                refused[index] = error
        submitted = await self._committer.submit_when_room(operations)
        return asyncio.ensure_future(_batch_response(submitted, refused))

    def _operation(self, write: Any, table_name: str) -> tuple[ItemKey, Operation]:
        kind = write.WhichOneof("operation")
        if kind == "put":
            put = write.put
            return self._put(put, put.table_name or table_name)
        if kind == "delete":
            return self._delete(write.delete, write.delete.table_name or table_name)
        if kind == "update":
            return self._update(write.update, write.update.table_name or table_name)
        raise ValidationError("operation must be one of put, delete, update", field="operation")

    def _put(self, request: Any, table_name: str) -> tuple[ItemKey, Operation]:
        item = parse_item(request.item)
        encoded = canonicalize(item)
        table = self._catalog.open_table(table_name)
        key = table.keys.of_item(item)
        return key, Put(table, key, encoded, _condition(request))

    def _delete(self, request: Any, table_name: str) -> tuple[ItemKey, Operation]:
        table = self._catalog.open_table(table_name)
        key = _key(request, table)
        return key, Delete(table, key, _condition(request))

    def _update(self, request: Any, table_name: str) -> tuple[ItemKey, Operation]:
        placeholders = _placeholders(request)
        update: Update = NO_UPDATE
        if request.update_expression:
            update = parse_update(request.update_expression, placeholders)
        condition = None
        if request.condition_expression:
            condition = parse_condition(request.condition_expression, placeholders)
        placeholders.check_all_used()
        table = self._catalog.open_table(table_name)
        key = _key(request, table)
        for name in sorted(update.touched & table.keys.names):
            raise ValidationError(
                f"One or more parameter values were invalid: Cannot update attribute {name}. This attribute is part of "
                "the key",
                field="update_expression",
                attribute=name,
            )
        return key, Change(table, key, update, condition, request.ByteSize())


def _key(request: Any, table: OpenTable) -> ItemKey:
    key = parse_item(request.key)
    canonicalize(key)
    return table.keys.of_key(key)


def _condition(request: Any) -> Condition | None:
    """The condition of a request, which most do not have."""
    if not request.condition_expression:
        if request.expression_attribute_names or request.expression_attribute_values:
            raise ValidationError(
                "ExpressionAttributeNames and ExpressionAttributeValues can only be specified when using expressions",
                field="expression_attribute_names",
            )
        return None
    placeholders = _placeholders(request)
    condition = parse_condition(request.condition_expression, placeholders)
    placeholders.check_all_used()
    return condition


def _placeholders(request: Any) -> Placeholders:
    values = {}
    for name, value in request.expression_attribute_values.items():
        try:
            values[name] = canonical_value(value)
        except ValidationError as error:
            raise ValidationError(
                f"ExpressionAttributeValues contains invalid value: {error.message} for key {name}",
                **(error.metadata | {"field": "expression_attribute_values"}),
            ) from error
    return Placeholders(names=dict(request.expression_attribute_names), values=values)


async def _batch_response(submitted: asyncio.Future[list[Any]], refused: dict[int, HeadraceError]) -> bytes:
    """The results in the order of the requests, refused ones put back in their places."""
    outcomes: Sequence[Any] = await submitted
    if not refused and outcomes.count(None) == len(outcomes):
        return _WRITTEN * len(outcomes)
    if refused:
        rest = iter(outcomes)
        outcomes = [refused[i] if i in refused else next(rest) for i in range(len(outcomes) + len(refused))]
    return b"".join(
        field_bytes(_FIELD_1, pb.WriteResult(error=to_message(outcome)).SerializeToString())
        if isinstance(outcome, HeadraceError)
        else _WRITTEN
        for outcome in outcomes
    )

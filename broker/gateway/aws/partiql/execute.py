"""The operations that take PartiQL statements, carried out by those that take requests."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from broker.encoding.items import nested_too_deep
from broker.gateway.aws.errors import AwsError, duplicate_item, internal_error, transaction_canceled, translate
from broker.gateway.aws.partiql.requests import (
    Keys,
    check_request,
    get_request,
    select_reading,
    write_request,
)
from broker.gateway.aws.partiql.statements import Delete, Exists, Insert, Select, Update, parse_statement
from broker.gateway.aws.shapes import structure
from broker.model.errors import CorruptionError, DataLossError, HeadraceError, ValidationError, forget_frames

if TYPE_CHECKING:
    from broker.gateway.aws.partiql.requests import Reading
    from broker.model.turns import Turns

Json: TypeAlias = dict[str, Any]
Operation: TypeAlias = Callable[[Json], Awaitable[Json]]

# A page of several queries ends when so much was read, as one of a single query does at 1 MB; twice as much if it is
# consistent, for that costs twice as much.
_PAGE_UNITS_MAX: Final = 128.0
# And when the parameters, which each query has, come to so many bytes.
_PAGE_PARAMETERS_BYTES_MAX: Final = 1024 * 1024
# What a statement costs besides its text and parameters, told as bytes that are looked at: about 0.5 ms.
_STATEMENT_BYTES: Final = 2 * 1024

_DUPLICATE: Final = {"Code": "DuplicateItem", "Message": duplicate_item().message}
_log: Final = logging.getLogger(__name__)
# By error: its code in a batch. Source: API Reference, BatchStatementError.
_BATCH_CODES: Final[Mapping[str, str]] = {
    "ConditionalCheckFailedException": "ConditionalCheckFailed",
    "DuplicateItemException": "DuplicateItem",
    "ProvisionedThroughputExceededException": "ProvisionedThroughputExceeded",
    "ResourceNotFoundException": "ResourceNotFound",
    "SerializationException": "ValidationError",
    "ThrottlingException": "ThrottlingError",
    "TransactionConflictException": "TransactionConflict",
    "ValidationException": "ValidationError",
}


class _Prepared:
    """A statement with its parameters."""

    def __init__(self, request: Json) -> None:
        text = request["Statement"]
        self.statement, wanted = parse_statement(text)
        given = request.get("Parameters", [])
        # First: a request may have very many, and a statement only so many as its text has places for.
        if len(given) != wanted:
            raise ValidationError(
                f"Number of parameters in request and statement don't match: {len(given)}, {wanted}",
                field="Parameters",
            )
        self.parameters = _parameters(given)
        self.content = _content(text, self.parameters)
        self.shows_failed = request.get("ReturnValuesOnConditionCheckFailure")

    @property
    def returning(self) -> str | None:
        """What a write is to return, as ReturnValues has it."""
        return self.statement.returning if isinstance(self.statement, Update | Delete) else None

    @property
    def target(self) -> tuple[str, str | None]:
        """The table and, of a SELECT, the index."""
        match self.statement:
            case Select(table, index) | Exists(Select(table, index)):
                return table, index
            case other:
                return other.table, None


class PartiQL:
    """ExecuteStatement, BatchExecuteStatement and ExecuteTransaction."""

    def __init__(self, operations: Mapping[str, Operation], turns: Turns) -> None:
        """`operations` are DynamoDB's other ones."""
        self._operations = operations
        self._turns = turns

    async def execute_statement(self, request: Json) -> Json:
        """One statement: a page of a SELECT, or one change."""
        prepared = await self._prepared(request)
        if isinstance(prepared.statement, Select):
            return await self._page(prepared.statement, prepared, request)
        return await self._write(prepared, request.get("ReturnConsumedCapacity"))

    async def execute_batch(self, request: Json) -> Json:
        """Statements on their own, all reads of one item or all writes, each with its result or error."""
        requests = request["Statements"]
        capacity = request.get("ReturnConsumedCapacity")
        prepared = [await self._prepared_or_error(each) for each in requests]
        if len({isinstance(each.statement, Select) for each in prepared if isinstance(each, _Prepared)}) > 1:
            raise _mixed()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._execute_in_batch(each, of, capacity))
                for each, of in zip(prepared, requests, strict=True)
            ]
        results = [task.result() for task in tasks]
        response: Json = {"Responses": [answer for answer, _ in results]}
        if consumed := [each for _, each in results if each is not None]:
            response["ConsumedCapacity"] = consumed
        return response

    async def execute_transaction(self, request: Json) -> Json:
        """Statements of which all or none take effect, all reads of one item or all writes."""
        requests = request["TransactStatements"]
        prepared = [await self._prepared(each) for each in requests]
        asked: Json = {"ReturnConsumedCapacity": request.get("ReturnConsumedCapacity")}
        if isinstance(prepared[0].statement, Select):
            return await self._read_transaction(prepared, asked)
        asked["ClientRequestToken"] = request.get("ClientRequestToken")
        return await self._write_transaction(prepared, asked)

    async def _prepared(self, request: Json) -> _Prepared:
        """Read a statement. Others have their turn between two of many."""
        text = request.get("Statement")
        await self._turns.take(_STATEMENT_BYTES + (len(text) if isinstance(text, str) else 0))
        return _Prepared(request)

    async def _prepared_or_error(self, request: Json) -> _Prepared | AwsError:
        try:
            return await self._prepared(request)
        except ValidationError as error:
            forget_frames(error)
            return translate(error)

    async def _call(self, name: str, asked: Json) -> Json:
        """Carries out another operation; all that it raises is an AwsError."""
        try:
            return await self._operations[name](asked)
        except HeadraceError as error:
            raise translate(error) from error

    async def _keys(self, prepared: _Prepared) -> Keys:
        table_name, index_name = prepared.target
        table = (await self._call("DescribeTable", {"TableName": table_name}))["Table"]
        schemas = {None: table["KeySchema"]}
        for kind in ("LocalSecondaryIndexes", "GlobalSecondaryIndexes"):
            schemas |= {index["IndexName"]: index["KeySchema"] for index in table.get(kind, ())}
        if index_name not in schemas:
            raise ValidationError(f"The table does not have the specified index: {index_name}", field="Statement")
        partition, sort = (
            tuple(element["AttributeName"] for element in schemas[index_name] if element["KeyType"] == role)
            for role in ("HASH", "RANGE")
        )
        return Keys(partition, sort)

    async def _page(self, select: Select, prepared: _Prepared, request: Json) -> Json:
        reading = select_reading(select, await self._keys(prepared), prepared.parameters)
        digest = blake2b(prepared.content, digest_size=8).hexdigest()
        number, start = _position(request.get("NextToken"), digest, len(reading.requests))
        response, number, start = await self._read(reading, prepared, request, number, start)
        if number < len(reading.requests):
            response["NextToken"] = _next_token(digest, number, start)
        if start is not None:
            response["LastEvaluatedKey"] = start
        return response

    async def _read(
        self, reading: Reading, prepared: _Prepared, request: Json, number: int = 0, start: Json | None = None
    ) -> tuple[Json, int, Json | None]:
        """A page, from a place in one of the requests of a reading, and where it ends."""
        items: list[Json] = []
        consumed: Json = {}
        limit = request.get("Limit")
        units_max = _PAGE_UNITS_MAX * (2 if request.get("ConsistentRead") else 1)
        parameters_bytes = 0
        while True:
            asked = {
                **reading.requests[number],
                "ConsistentRead": request.get("ConsistentRead"),
                "ExclusiveStartKey": start,
                "Limit": limit,
                "ReturnConsumedCapacity": _told_capacity(request),
            }
            page = await self._call(reading.operation, asked)
            items += map(reading.shown, page["Items"])
            consumed = _sum(consumed, page["ConsumedCapacity"])
            start = page.get("LastEvaluatedKey")
            if start is None:
                number += 1
            if limit is not None:
                limit -= page["ScannedCount"]
            parameters_bytes += len(prepared.content)
            if start is not None or number == len(reading.requests) or limit == 0:
                break
            if consumed["CapacityUnits"] >= units_max or parameters_bytes >= _PAGE_PARAMETERS_BYTES_MAX:
                break
            await self._turns.take(_STATEMENT_BYTES + len(prepared.content))
        response: Json = {"Items": items}
        if _wants_capacity(request.get("ReturnConsumedCapacity")):
            response["ConsumedCapacity"] = consumed
        return response, number, start

    async def _write(self, prepared: _Prepared, capacity: Any) -> Json:
        if isinstance(prepared.statement, Select | Exists):
            raise ValidationError("EXISTS can only be used in a transaction", field="Statement")
        kind, asked = write_request(prepared.statement, await self._keys(prepared), prepared.parameters)
        asked["ReturnConsumedCapacity"] = capacity
        asked["ReturnValuesOnConditionCheckFailure"] = prepared.shows_failed
        asked["ReturnValues"] = prepared.returning
        try:
            response = await self._call(f"{kind}Item", asked)
        except AwsError as error:
            if isinstance(prepared.statement, Insert) and error.name == "ConditionalCheckFailedException":
                raise duplicate_item() from error
            raise
        attributes = response.pop("Attributes", None)
        return {"Items": [] if attributes is None else [attributes], **response}

    async def _execute_in_batch(
        self, prepared: _Prepared | AwsError, request: Json, capacity: Any
    ) -> tuple[Json, Json | None]:
        """The answer to one statement, and what it consumed."""
        if isinstance(prepared, AwsError):
            return {"Error": _batch_error(prepared)}, None
        await self._turns.take(_STATEMENT_BYTES + len(prepared.content))
        answer: Json = {"TableName": prepared.target[0]}
        try:
            response = await self._execute_one(prepared, request, capacity)
        except HeadraceError as error:
            return {"Error": _batch_error(translate(error)), **answer}, None
        except AwsError as error:
            return {"Error": _batch_error(error), **answer}, None
        except CorruptionError as error:
            _log.error("a statement met damaged data error=%s", error)
            return {"Error": _batch_error(translate(DataLossError())), **answer}, None
        except Exception as error:  # noqa: BLE001 - of the other statements the caller gets to know what has become
            _log.error("statement failed unexpectedly", exc_info=error)
            return {"Error": _batch_error(internal_error("Internal error; the broker's log says more")), **answer}, None
        if response["Items"]:
            (answer["Item"],) = response["Items"]
        return answer, response.get("ConsumedCapacity")

    async def _execute_one(self, prepared: _Prepared, request: Json, capacity: Any) -> Json:
        if not isinstance(prepared.statement, Select):
            return await self._write(prepared, capacity)
        keys = await self._keys(prepared)
        # Refuses what may find more than one item.
        get_request(prepared.statement, keys, prepared.parameters)
        reading = select_reading(prepared.statement, keys, prepared.parameters)
        asked = {"ConsistentRead": request.get("ConsistentRead"), "ReturnConsumedCapacity": capacity}
        response, _, _ = await self._read(reading, prepared, asked)
        return response

    async def _read_transaction(self, prepared: list[_Prepared], asked: Json) -> Json:
        readings, gets = [], []
        for each in prepared:
            if not isinstance(each.statement, Select):
                raise _mixed()
            keys = await self._keys(each)
            gets.append({"Get": get_request(each.statement, keys, each.parameters)})
            readings.append(select_reading(each.statement, keys, each.parameters))
        response = await self._call("TransactGetItems", {**asked, "TransactItems": gets})
        response["Responses"] = [
            {"Item": reading.shown(found["Item"])} if "Item" in found else {}
            for reading, found in zip(readings, response["Responses"], strict=True)
        ]
        return response

    async def _write_transaction(self, prepared: list[_Prepared], asked: Json) -> Json:
        actions = [await self._action(each) for each in prepared]
        try:
            response = await self._call("TransactWriteItems", {**asked, "TransactItems": actions})
        except AwsError as error:
            reasons = error.members.get("CancellationReasons")
            if reasons is None:
                raise
            raise transaction_canceled(
                [
                    _DUPLICATE
                    if isinstance(each.statement, Insert) and reason["Code"] == "ConditionalCheckFailed"
                    else reason
                    for each, reason in zip(prepared, reasons, strict=True)
                ]
            ) from error
        # AWS answers for reads alone.
        return {"Responses": [], **response}

    async def _action(self, prepared: _Prepared) -> Json:
        statement = prepared.statement
        if isinstance(statement, Select):
            raise _mixed()
        if prepared.returning is not None:
            raise ValidationError("RETURNING can't be used in a transaction", field="Statement")
        keys = await self._keys(prepared)
        if isinstance(statement, Exists):
            kind, action = "ConditionCheck", check_request(statement, keys, prepared.parameters)
        else:
            kind, action = write_request(statement, keys, prepared.parameters)
        action["ReturnValuesOnConditionCheckFailure"] = prepared.shows_failed
        return {kind: action}


def _parameters(parameters: list[Any]) -> list[Json]:
    values = [structure(each, "Parameters") for each in parameters]
    if any(len(each) != 1 for each in values):
        raise ValidationError(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
            field="Parameters",
        )
    return values


def _mixed() -> ValidationError:
    return ValidationError("The statements must be either all reads or all writes", field="Statement")


def _batch_error(error: AwsError) -> Json:
    result: Json = {"Code": _BATCH_CODES.get(error.name, "InternalServerError"), "Message": error.message}
    if "Item" in error.members:
        result["Item"] = error.members["Item"]
    return result


def _told_capacity(request: Json) -> Any:
    """What to ask of pages, whose units are needed in any case."""
    asked = request.get("ReturnConsumedCapacity")
    return asked if _wants_capacity(asked) else "TOTAL"


def _wants_capacity(asked: Any) -> bool:
    return asked is not None and asked != "NONE"


def _sum(first: Any, second: Any) -> Any:
    """What two pages consumed together."""
    if isinstance(second, dict):
        return {**first, **{name: _sum(first[name], part) if name in first else part for name, part in second.items()}}
    return second if isinstance(second, str) else first + second


# Where a page ended.


def _content(text: str, parameters: list[Json]) -> bytes:
    """A statement and its parameters."""
    try:
        return orjson.dumps([text, parameters])
    except orjson.JSONEncodeError as error:
        # What was read nests deeper than what is written may.
        raise nested_too_deep("Parameters") from error


def _next_token(digest: str, number: int, start: Json | None) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([digest, number, start])).decode()


def _position(token: Any, digest: str, requests: int) -> tuple[int, Json | None]:
    """Which request of a reading goes on, and where; it is checked where it is used."""
    if token is None:
        return 0, None
    try:
        of, number, start = orjson.loads(base64.urlsafe_b64decode(token))
        if of == digest and isinstance(number, int) and 0 <= number < requests:
            return number, start
    except (TypeError, ValueError):
        pass
    raise ValidationError("NextToken is not one of this statement", field="NextToken")

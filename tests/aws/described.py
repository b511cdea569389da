"""Requests made from AWS's description of its services: a valid one of each operation, and what may be in it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import botocore.session

Json: TypeAlias = dict[str, Any]
# Names of members; None stands for any element of a list or map.
Path: TypeAlias = tuple[str | None, ...]

TARGETS = {"dynamodb": "DynamoDB_20120810", "dynamodbstreams": "DynamoDBStreams_20120810"}
# What holds items is read by a parser of its own.
_OPAQUE = "AttributeValue"
_LEGACY = ("AttributesToGet", "KeyConditions", "QueryFilter")
_WITH_NAMES = {
    "ConditionExpression": "attribute_exists(#a)",
    "FilterExpression": "attribute_exists(#a)",
    "ProjectionExpression": "#a",
}
_UNIQUE = itertools.count(1)


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


@dataclass(frozen=True)
class Described:
    """One operation."""

    service: str
    name: str

    @staticmethod
    def names(service: str) -> list[str]:
        """The names of all operations of a service."""
        return sorted(_model(service).operation_names)

    @property
    def target(self) -> str:
        """The operation as X-Amz-Target has it."""
        return f"{TARGETS[self.service]}.{self.name}"

    @property
    def input(self) -> Any:
        """The shape of its requests; None if it takes no members."""
        return _model(self.service).operation_model(self.name).input_shape

    def members(self) -> Iterator[tuple[Path, Any]]:
        """All members, at any depth, with their shapes."""
        if self.input is not None:
            yield from _members(self.input, (), ())


@dataclass
class World:
    """What there is at the broker, for requests to name."""

    table: str
    table_arn: str
    stream_arn: str
    shard_id: str
    shard_iterator: str
    backup_arn: str

    def __post_init__(self) -> None:
        key = {"id": {"S": "a"}, "line": {"N": "1"}}
        self._values = {
            "TableArn": self.table,
            "TableName": self.table,
            "StreamArn": self.stream_arn,
            "ShardId": self.shard_id,
            "ShardIterator": self.shard_iterator,
            "BackupArn": self.backup_arn,
            "ResourceArnString": self.table_arn,
            "IndexName": "by_state",
            "KeySchemaAttributeName": "id",
            "Key": key,
            "PutItemInputAttributeMap": key,
            "PartiQLStatement": 'SELECT * FROM "T"'.replace('"T"', f'"{self.table}"'),
            "SequenceNumber": "0" * 21,
            "ConditionExpression": "attribute_exists(id)",
            "UpdateExpression": "SET seen = line",
            "TimeToLiveAttributeName": "until",
        }

    def request(self, operation: Described) -> Json:
        """A request with all that is required."""
        request: Json = {} if operation.input is None else self.smallest(operation.input)
        match operation.name:
            case "CreateTable":
                request["TableName"] = f"described-{next(_UNIQUE)}"
                request["BillingMode"] = "PAY_PER_REQUEST"
                request["KeySchema"] = [{"AttributeName": "id", "KeyType": "HASH"}]
                request["AttributeDefinitions"] = [{"AttributeName": "id", "AttributeType": "S"}]
            case "UpdateTable":
                request["BillingMode"] = "PAY_PER_REQUEST"
            case "BatchWriteItem":
                request["RequestItems"] = {self.table: [{"PutRequest": {"Item": self._values["Key"]}}]}
            case "TransactWriteItems":
                request["TransactItems"] = [{"Put": {"TableName": self.table, "Item": self._values["Key"]}}]
            case "RestoreTableFromBackup":
                request["TargetTableName"] = f"described-{next(_UNIQUE)}"
            case "Query":
                request |= {"KeyConditionExpression": "id = :v", "ExpressionAttributeValues": {":v": {"S": "a"}}}
        return request

    def smallest(self, shape: Any) -> Any:
        """The smallest value of a shape."""
        if shape.name in self._values:
            return copy.deepcopy(self._values[shape.name])
        match shape.type_name:
            case "structure" if shape.name != _OPAQUE:
                return {name: self.smallest(shape.members[name]) for name in shape.required_members}
            case "structure":
                return {"S": "a"}
            case "list":
                return [self.smallest(shape.member)]
            case "map":
                return {self._map_key(shape): self.smallest(shape.value)}
            case "boolean":
                return True
            case "integer" | "long" | "double" | "timestamp":
                return shape.metadata.get("min", 1)
        return shape.enum[0] if shape.enum else "abc"

    def request_with(self, operation: Described, path: Path, value: Any) -> Json:
        """A valid request, but for the value of one member."""
        request = self.request(operation)
        if operation.name == "Query" and path[0] in _LEGACY:
            condition = {"ComparisonOperator": "EQ", "AttributeValueList": [{"S": "a"}]}
            request = {"TableName": self.table, "KeyConditions": {"id": condition}}
        if operation.name == "TransactWriteItems" and len(path) > 2 and path[2] != "Put":
            request["TransactItems"] = [{}]
        if operation.name == "BatchWriteItem" and "DeleteRequest" in path:
            request["RequestItems"] = {self.table: [{}]}
        self._set(request, operation.input, path, value)
        return request

    def _set(self, content: Any, shape: Any, path: Path, value: Any) -> Any:
        """The content with a value at a path, which is made as far as it is not there."""
        if not path:
            return value
        step, *rest = path
        if shape.type_name == "structure":
            member = shape.members[step]
            if step == "ExpressionAttributeNames":
                # Names may only be there for an expression.
                name = next(name for name in _WITH_NAMES if name in shape.members)
                content[name] = _WITH_NAMES[name]
            inner = content[step] if step in content else self.smallest(member)
            content[step] = self._set(inner, member, tuple(rest), value)
        elif shape.type_name == "list":
            inner = content[0] if content else self.smallest(shape.member)
            content[:1] = [self._set(inner, shape.member, tuple(rest), value)]
        else:
            key = next(iter(content), self._map_key(shape))
            content[key] = self._set(content.get(key, self.smallest(shape.value)), shape.value, tuple(rest), value)
        return content

    def _map_key(self, shape: Any) -> str:
        match shape.name:
            case "ExpressionAttributeNameMap":
                return "#a"
            case "ExpressionAttributeValueMap":
                return ":a"
            case _ if shape.key.name in self._values:
                return str(self._values[shape.key.name])
        return "state"


def _members(shape: Any, path: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, Any]]:
    if shape.name == _OPAQUE or shape.name in above:
        return
    parts: list[tuple[str | None, Any]] = []
    if shape.type_name == "structure":
        parts = list(shape.members.items())
    elif shape.type_name == "list":
        parts = [(None, shape.member)]
    elif shape.type_name == "map":
        parts = [(None, shape.value)]
    for name, part in parts:
        if part.name != _OPAQUE:
            yield (*path, name), part
            yield from _members(part, (*path, name), (*above, shape.name))

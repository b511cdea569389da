"""The constraints of AWS's own service description, checked on each request before anything is looked up.

`service_model.json` has them; `protos/aws_model.py` writes it from botocore. Up to ten faults of one request are told
together, in AWS's words and with AWS's paths, as DynamoDB does. A rule for each shape is made when the gateway starts,
and looks only at members that are there. A member that is null is absent to AWS, so the check takes it out of the
request. Attribute values are left to the code that reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from broker.gateway.aws.errors import lower_first, validation_errors
from broker.model import constraints
from broker.model.errors import SerializationError, ValidationError, described_fault

FAULTS_MAX: Final = 10

_MODEL: Final = Path(__file__).with_name("service_model.json")
_INVALID: Final = "One or more parameter values were invalid: "
# Where the service enforces something else than its description says, by shape.
_OVERRIDES: Final[Mapping[str, Mapping[str, Any]]] = {
    # The description has the length of an ARN only; a name is shorter, and has a pattern.
    "TableArn": {"type": "table"},
    "AttributeNameList": {"max": 255},
    # Of an index of several attributes; a table's own key has two, which is checked with the definitions.
    "KeySchema": {"max": 8},
    # An empty token would be the first page again.
    "NextTokenString": {"min": 1},
    # An empty key would be the one that AWS owns.
    "KMSMasterKeyId": {"min": 1},
}
# How DynamoDB tells that members of these names are empty; it does so after all constraints of the description.
_EMPTY: Final[Mapping[str, str]] = {
    "ExpressionAttributeNames": "ExpressionAttributeNames must not be empty",
    "ExpressionAttributeValues": "ExpressionAttributeValues must not be empty",
    "LocalSecondaryIndexes": f"{_INVALID}List of LocalSecondaryIndexes is empty",
    "GlobalSecondaryIndexes": f"{_INVALID}List of GlobalSecondaryIndexes is empty",
    "GlobalSecondaryIndexUpdates": f"{_INVALID}List of GlobalSecondaryIndexUpdates is empty",
}
# An ARN may stand where a table is named; this one place tells them apart by how they begin.
_ARN_PREFIX: Final = "arn:"


class _Fault(NamedTuple):
    """A value that breaks a constraint, and the way to it from the shape that was checked."""

    path: tuple[str, ...]
    value: Any
    constraint: str
    # Set if the JSON is of another type than this one: then the request cannot be read at all.
    wanted: str = ""
    # Set if DynamoDB tells it in words of its own.
    message: str = ""

    def within(self, *path: str) -> _Fault:
        """The same fault, seen from further out."""
        return self._replace(path=path + self.path)

    def __str__(self) -> str:
        return described_fault(self.value, ".".join(self.path), self.constraint)


# What is wrong with the content of a member; None, or nothing, if it is well.
_Rule: TypeAlias = Callable[[Any], "list[_Fault] | None"]
Check: TypeAlias = Callable[[dict[str, Any]], None]


def request_checks(targets: Iterable[str]) -> dict[str, Check]:
    """Make a check for each operation, named as in X-Amz-Target. A check raises AwsError or SerializationError.

    An operation that AWS's description does not have gets none.
    """
    services = json.loads(_MODEL.read_bytes())
    rules = {service: _Rules(described["shapes"]) for service, described in services.items()}
    checks = {}
    for target in targets:
        service, _, operation = target.partition(".")
        shape = services[service]["operations"].get(operation)
        if shape is not None:
            checks[target] = _check(rules[service].of(shape))
    return checks


def _check(rule: _Rule) -> Check:
    def check(request: dict[str, Any]) -> None:
        faults = rule(request)
        if faults:
            _refuse(faults)

    return check


def _refuse(faults: list[_Fault]) -> None:
    """Raise the error that tells the faults of one request."""
    for fault in faults:
        if fault.wanted:
            where = f" at {'.'.join(fault.path)}" if fault.path else ""
            raise SerializationError(f"{type(fault.value).__name__} found where {fault.wanted} is expected{where}")
    of_the_model = [str(fault) for fault in faults if not fault.message]
    if of_the_model:
        raise validation_errors(of_the_model[:FAULTS_MAX])
    raise ValidationError(faults[0].message)


class _Rules:
    """The rules of one service's shapes, each made once."""

    def __init__(self, shapes: Mapping[str, Mapping[str, Any]]) -> None:
        self._shapes = shapes
        self._made: dict[str, _Rule | None] = {}

    def of(self, shape: str) -> _Rule:
        """Return the rule of a shape that has one."""
        rule = self._rule(shape)
        assert rule is not None, "the input of an operation is a structure"
        return rule

    def _rule(self, name: str) -> _Rule | None:
        """Return the rule of a shape; None if it is left to the code that reads it."""
        if name not in self._made:
            shape = self._shapes.get(name)
            # What holds attribute values is not walked.
            self._made[name] = None
            if shape is not None:
                self._made[name] = self._make({**shape, **_OVERRIDES.get(name, {})})
        return self._made[name]

    def _member(self, name: str, shape: str) -> _Rule | None:
        """Return the rule of a structure's member."""
        rule = self._rule(shape)
        return _not_empty(rule, _EMPTY[name]) if name in _EMPTY else rule

    def _make(self, shape: Mapping[str, Any]) -> _Rule | None:
        match shape["type"]:
            case "structure":
                members = {name: self._member(name, member) for name, member in shape["members"].items()}
                return _structure(members, shape.get("required", ()))
            case "list":
                return _list(self._rule(shape["member"]), shape.get("min", 0), shape.get("max"))
            case "map":
                return _map(self._rule(shape["value"]), shape.get("min", 0), shape.get("max"))
            case "string":
                return _string(shape)
            case "table":
                return _table(self._shapes["TableName"], _string({"max": shape["max"]}))
            case "integer" | "long":
                return _integer(shape.get("min"), shape.get("max"))
            case "boolean":
                return _boolean
        return None


def _structure(members: Mapping[str, _Rule | None], required: Iterable[str]) -> _Rule:
    rules = {name: (lower_first(name), rule) for name, rule in members.items() if rule is not None}
    needed = tuple(required)
    order = {lower_first(name): number for number, name in enumerate(members)}

    def check(content: Any) -> list[_Fault] | None:
        if type(content) is not dict:
            return [_Fault((), content, "", wanted="a structure")]
        faults: list[_Fault] | None = None
        nulls: list[str] | None = None
        for name, value in content.items():
            if value is None:
                nulls = [*(nulls or ()), name]
                continue
            member = rules.get(name)
            if member is not None:
                found = member[1](value)
                if found:
                    faults = [*(faults or ()), *(fault.within(member[0]) for fault in found)]
        if nulls:
            # The code that carries out requests must not take null for a value that was given.
            for name in nulls:
                del content[name]
        for name in needed:
            if name not in content:
                faults = [*(faults or ()), _Fault((lower_first(name),), None, constraints.NOT_NULL)]
        if faults:
            # As the description lists its members, whatever the order of the request.
            faults.sort(key=lambda fault: order[fault.path[0]])
        return faults

    return check


def _list(rule: _Rule | None, least: int, most: int | None) -> _Rule:
    def check(content: Any) -> list[_Fault] | None:
        if type(content) is not list:
            return [_Fault((), content, "", wanted="a list")]
        if (length := _length(content, least, most)) is not None:
            return [length]
        if rule is None:
            return None
        faults: list[_Fault] = []
        for number, element in enumerate(content, 1):
            found = rule(element)
            if found:
                faults += (fault.within(str(number), "member") for fault in found)
                if len(faults) >= FAULTS_MAX:
                    break
        return faults

    return check


def _map(rule: _Rule | None, least: int, most: int | None) -> _Rule:
    def check(content: Any) -> list[_Fault] | None:
        if type(content) is not dict:
            return [_Fault((), content, "", wanted="a map")]
        if (length := _length(content, least, most)) is not None:
            return [length]
        if rule is None:
            return None
        faults: list[_Fault] = []
        for key, value in content.items():
            found = rule(value)
            if found:
                faults += (fault.within(key, "member") for fault in found)
                if len(faults) >= FAULTS_MAX:
                    break
        return faults

    return check


def _not_empty(rule: _Rule | None, message: str) -> _Rule:
    def check(content: Any) -> list[_Fault] | None:
        if content in ([], {}):
            return [_Fault((), content, "", message=message)]
        return None if rule is None else rule(content)

    return check


def _table(shape: Mapping[str, Any], arn: _Rule) -> _Rule:
    name, least, most = _string(shape), shape["min"], shape["max"]
    matches = re.compile(shape["pattern"]).fullmatch

    def check(content: Any) -> list[_Fault] | None:
        # Nearly all requests have a good name here, so that comes first.
        if type(content) is str and least <= len(content) <= most and matches(content):
            return None
        if type(content) is str and content.startswith(_ARN_PREFIX):
            return arn(content)
        return name(content)

    return check


def _string(shape: Mapping[str, Any]) -> _Rule:
    least, most = shape.get("min", 0), shape.get("max")
    pattern = re.compile(shape["pattern"]) if "pattern" in shape else None
    values: list[str] = shape.get("enum", [])
    known = frozenset(values)

    def check(content: Any) -> list[_Fault] | None:
        if type(content) is not str:
            return [_Fault((), content, "", wanted="a string")]
        if known:
            return None if content in known else [_Fault((), content, constraints.one_of(values))]
        faults = None
        if (length := _length(content, least, most)) is not None:
            faults = [length]
        if pattern is not None and pattern.fullmatch(content) is None:
            faults = [*(faults or ()), _Fault((), content, constraints.matches(pattern.pattern))]
        return faults

    return check


def _integer(least: int | None, most: int | None) -> _Rule:
    def check(content: Any) -> list[_Fault] | None:
        if type(content) is not int:
            return [_Fault((), content, "", wanted="an integer")]
        if least is not None and content < least:
            return [_Fault((), content, constraints.value_at_least(least))]
        if most is not None and content > most:
            return [_Fault((), content, constraints.value_at_most(most))]
        return None

    return check


def _boolean(content: Any) -> list[_Fault] | None:
    return None if type(content) is bool else [_Fault((), content, "", wanted="a boolean")]


def _length(content: Any, least: int, most: int | None) -> _Fault | None:
    if len(content) < least:
        return _Fault((), content, constraints.length_at_least(least))
    if most is not None and len(content) > most:
        return _Fault((), content, constraints.length_at_most(most))
    return None

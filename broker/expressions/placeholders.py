"""What #names and :values stand for in the expressions of one request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

from broker.model.errors import ValidationError
from broker.model.values import ATTRIBUTE_NAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model.tables import Table
    from broker.model.values import Value

# Source: Developer Guide, "Quotas in Amazon DynamoDB", Expression parameters.
PLACEHOLDER_BYTES_MAX: Final = 255
PLACEHOLDERS_BYTES_MAX: Final = 2 * 1024 * 1024
# A request has at most four expressions of 4 KB, and a placeholder takes three characters and more of one. What no
# expression names is refused in any case.
PLACEHOLDERS_MAX: Final = 8_192

_NAME: Final = re.compile(r"#[A-Za-z0-9_]+", re.ASCII)
_VALUE: Final = re.compile(r":[A-Za-z0-9_]+", re.ASCII)


class Placeholders:
    """The substitutions of one request, shared by all its expressions, and which of them these have used."""

    __slots__ = ("_names", "_parents", "_used", "_values")

    def __init__(self, names: Mapping[str, str], values: Mapping[str, Value]) -> None:
        """Raises ValidationError for a key that no expression could name, or a name that no attribute can have."""
        for given, pattern, what in ((names, _NAME, "Names"), (values, _VALUE, "Values")):
            for key in given:
                if pattern.fullmatch(key) is None or len(key) > PLACEHOLDER_BYTES_MAX:
                    raise ValidationError(
                        f'ExpressionAttribute{what} contains invalid key: Syntax error; key: "{key[:100]}"',
                        field=f"expression_attribute_{what.lower()}",
                        limit=PLACEHOLDER_BYTES_MAX,
                    )
        for key, name in names.items():
            # A character has at most four bytes, and most names are short.
            if not name or (
                len(name) > ATTRIBUTE_NAME_BYTES_MAX // 4 and len(name.encode()) > ATTRIBUTE_NAME_BYTES_MAX
            ):
                fault = f"Attribute name is too long: limit {ATTRIBUTE_NAME_BYTES_MAX} bytes"
                raise ValidationError(
                    f"ExpressionAttributeNames contains invalid value: {fault if name else 'Empty attribute name'} "
                    f"for key {key}",
                    field="expression_attribute_names",
                    limit=ATTRIBUTE_NAME_BYTES_MAX if name else 1,
                )
        self._names = names
        self._values = values
        self._used: set[str] = set()
        # The attributes whose parts a path of an expression leads to.
        self._parents: dict[str, Where] = {}

    def name(self, reference: str, where: Where) -> str:
        """The attribute's name that a #reference stands for. Raises ValidationError if none is given."""
        name = self._names.get(reference)
        if name is None:
            where.fail(
                "An expression attribute name used in the document path is not defined; attribute name: " + reference
            )
        self._used.add(reference)
        return name

    def value(self, reference: str, where: Where) -> Value:
        """The value that a :reference stands for. Raises ValidationError if none is given."""
        value = self._values.get(reference)
        if value is None:
            where.fail("An expression attribute value used in expression is not defined; attribute value: " + reference)
        self._used.add(reference)
        return value

    def note_parent(self, name: str, where: Where) -> None:
        """Notes that an expression has a path to a part of this attribute."""
        self._parents.setdefault(name, where)

    def check_keys_are_whole(self, table: Table) -> None:
        """Raises ValidationError if a path leads to a part of a key attribute: keys are scalars."""
        if not self._parents:
            return
        keys = {attribute.name: "IndexKey" for index in table.indexes for attribute in index.key_attributes}
        keys |= {attribute.name: "Key" for attribute in table.key_attributes}
        for name, where in self._parents.items():
            if name in keys:
                raise ValidationError(
                    "Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: "
                    f"{keys[name]}: {name}",
                    field=where.field,
                    attribute=name,
                )

    def check_all_used(self) -> None:
        """Raises ValidationError if a placeholder is given that no expression uses."""
        if len(self._used) == len(self._names) + len(self._values):
            return
        for given, what in ((self._names, "Names"), (self._values, "Values")):
            if not given.keys() <= self._used:
                unused = ", ".join(sorted(given.keys() - self._used))
                raise ValidationError(
                    f"Value provided in ExpressionAttribute{what} unused in expressions: keys: {{{unused}}}",
                    field=f"expression_attribute_{what.lower()}",
                )


class Where:
    """Which expression of a request is read: for errors."""

    __slots__ = ("_kind", "field")

    def __init__(self, kind: str) -> None:
        """`kind` is what the AWS API calls the parameter, such as FilterExpression."""
        self._kind = kind
        # Its name in our protocol.
        self.field = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()

    def fail(self, what: str, **metadata: object) -> NoReturn:
        """Raises the ValidationError that says what is wrong with the expression."""
        raise ValidationError(f"Invalid {self._kind}: {what}", **({"field": self.field} | metadata))

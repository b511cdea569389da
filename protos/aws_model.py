"""Writes what the gateway checks requests against: the inputs of DynamoDB's operations, as botocore describes them.

The broker itself does not need botocore. Run this after a newer botocore is installed, and commit the result:

    .venv/bin/python protos/aws_model.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import botocore.session

MODEL: Final = Path(__file__).parent.parent / "broker" / "gateway" / "aws" / "service_model.json"
TARGETS: Final = {"dynamodb": "DynamoDB_20120810", "dynamodbstreams": "DynamoDBStreams_20120810"}
# Attribute values are checked where they are read, once.
OPAQUE: Final = "AttributeValue"
_RULES: Final = ("min", "max", "pattern", "enum", "required")


def described() -> str:
    """Return the model file's text, made from the installed botocore."""
    session = botocore.session.Session()
    services = {}
    for service, target in TARGETS.items():
        model = session.get_service_model(service)
        shapes: dict[str, Any] = {}
        operations = {}
        for name in sorted(model.operation_names):
            shape = model.operation_model(name).input_shape
            # An operation without members has no input shape.
            if shape is not None:
                operations[name] = shape.name
                _describe(shape.name, model._service_description["shapes"], shapes)  # noqa: SLF001 - the raw JSON
        services[target] = {"operations": operations, "shapes": dict(sorted(shapes.items()))}
    return _in_lines(services, levels=3) + "\n"


def _in_lines(content: dict[str, Any], levels: int, indent: str = "") -> str:
    """Return JSON in which each operation and each shape has a line of its own."""
    if not levels:
        return json.dumps(content)
    inner = indent + "  "
    lines = (f"{inner}{json.dumps(name)}: {_in_lines(part, levels - 1, inner)}" for name, part in content.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _describe(name: str, source: dict[str, Any], shapes: dict[str, Any]) -> None:
    """Add a shape, and all shapes that it is made of."""
    if name in shapes or name == OPAQUE:
        return
    shape = source[name]
    described: dict[str, Any] = {"type": shape["type"]} | {rule: shape[rule] for rule in _RULES if rule in shape}
    shapes[name] = described
    if shape["type"] == "structure":
        described["members"] = {member: each["shape"] for member, each in shape["members"].items()}
        parts = list(described["members"].values())
    elif shape["type"] == "list":
        described["member"] = shape["member"]["shape"]
        parts = [described["member"]]
    elif shape["type"] == "map":
        described["key"], described["value"] = shape["key"]["shape"], shape["value"]["shape"]
        parts = [described["key"], described["value"]]
    else:
        parts = []
    for part in parts:
        _describe(part, source, shapes)


if __name__ == "__main__":
    MODEL.write_text(described())

"""The page of operations: what it says is there is, what it says is not is refused, and it leaves none out."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.session
import pytest

from tests.aws.conftest import post
from tests.broker_process import BrokerProcess

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "aws-compatibility.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| [A-Z`]", line)
]
# "yes" or "no", by operation.
STATUS = {
    operation: row[1][:3].strip(":; ,")
    for row in ROWS
    if row[0] != "Operation"
    for operation in row[0].split(", ")
    if re.fullmatch(r"[A-Z][A-Za-z]+", operation) and row[1].startswith(("yes", "no"))
}
SERVICES = {"dynamodb": "DynamoDB_20120810", "dynamodbstreams": "DynamoDBStreams_20120810"}
OPERATIONS = [
    (target, operation)
    for service, target in SERVICES.items()
    for operation in sorted(botocore.session.get_session().get_service_model(service).operation_names)
]


def test_every_operation_of_aws_is_on_the_page_and_no_other() -> None:
    assert sorted(STATUS) == sorted(operation for _, operation in OPERATIONS)


@pytest.mark.parametrize(("target", "operation"), OPERATIONS)
def test_an_operation_is_there_or_refused_as_the_page_says(
    open_broker: BrokerProcess, target: str, operation: str
) -> None:
    _, answer = post(open_broker, f"{target}.{operation}", {})
    is_unknown = answer.get("__type") == "com.amazon.coral.service#UnknownOperationException"
    assert is_unknown == (STATUS[operation] == "no"), answer


def test_each_line_names_a_test() -> None:
    for row in ROWS:
        if row[-1].startswith("Held by") or len(row) != 3:
            continue
        assert row[1].startswith("no") or "::test_" in row[2], row

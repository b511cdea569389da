"""A Lambda function: per-carrier totals of arrival delays, kept from the change records of the flights table.

For each change the old image is taken out of its carrier's totals and the new image is added. Records are delivered at
least once, so an item also remembers the last record that went into it: totals and that sequence number change in one
write, and a record that comes again is recognised and left out. That makes the effect exactly once.

It relies on records coming in order, which the stream promises per shard; a stream has one shard in this version.
"""

from __future__ import annotations

import os
from typing import Any

import headrace

TOTALS_TABLE = os.environ["TOTALS_TABLE"]

# Made when the function starts, kept between invocations; it finds the broker by HEADRACE_ENDPOINT.
client = headrace.Client()


def handler(event: dict[str, Any], _context: object) -> None:
    """Apply one batch of change records; returning means that all of it is applied."""
    totals_by_carrier: dict[str, Totals] = {}
    for record in event["Records"]:
        change = record["dynamodb"]
        for image, sign in ((change.get("OldImage"), -1), (change.get("NewImage"), +1)):
            if image is None:
                continue
            carrier = image["carrier"]["S"]
            if carrier not in totals_by_carrier:
                totals_by_carrier[carrier] = Totals(carrier)
            totals_by_carrier[carrier].apply(image, sign, change["SequenceNumber"])
    for totals in totals_by_carrier.values():
        totals.save()


class Totals:
    """One carrier's totals, as they are in the table and with the changes of a batch."""

    def __init__(self, carrier: str) -> None:
        self._item = client.get_item(TOTALS_TABLE, {"carrier": carrier}) or {
            "carrier": carrier,
            "flights": 0,
            "arrival_delay_minutes": 0,
            "last_sequence_number": "",
        }
        # Records up to here are in the totals already. It stays as it was loaded: the two images of a record carry
        # the same number, and both must count.
        self._saved_sequence_number = self._item["last_sequence_number"]

    def apply(self, image: dict[str, Any], sign: int, sequence_number: str) -> None:
        """Add a flight (sign 1) or take it out (-1), unless that was done before."""
        if sequence_number <= self._saved_sequence_number:
            return
        # A cancelled flight has no arrival delay.
        delay_minutes = int(image["arr_delay"]["N"]) if "arr_delay" in image else 0
        self._item["flights"] += sign
        self._item["arrival_delay_minutes"] += sign * delay_minutes
        self._item["last_sequence_number"] = sequence_number

    def save(self) -> None:
        """Write totals and sequence number together, if they have changed."""
        if self._item["last_sequence_number"] != self._saved_sequence_number:
            client.put_item(TOTALS_TABLE, self._item)

"""Attribute values as the engine sees them: DynamoDB's type letter and plain Python, independent of any wire format."""

from __future__ import annotations

from typing import Any, Final

# The type letter says what the content is: S a str, N a str in normal form, B bytes, BOOL a bool, NULL True; SS, NS and
# BS sorted tuples of those; L a list of values, M a dict of values by name.
Value = tuple[str, Any]
Attributes = dict[str, Value]

ITEM_SIZE_BYTES_MAX: Final = 400 * 1024
# What an item takes as a message. DynamoDB counts two bytes for 1E125, which in full are 126 characters; other values
# take at most four times what is counted. A record with two images must fit into a response, whose bound is 4 MiB.
ITEM_ENCODED_BYTES_MAX: Final = 1_792 * 1024
PARTITION_KEY_BYTES_MAX: Final = 2048
SORT_KEY_BYTES_MAX: Final = 1024
ATTRIBUTE_NAME_BYTES_MAX: Final = 65_535
# An attribute's value is the first level, the elements or entries of a list or map are one level deeper: a scalar may
# have 31 lists and maps around it.
NESTING_LEVELS_MAX: Final = 32
# Early versions took one level more. Items of theirs are still read, projected, indexed, replicated and removed.
STORED_NESTING_LEVELS_MAX: Final = NESTING_LEVELS_MAX + 1

"""The oracle: what tables and streams must hold after a sequence of operations, in the plainest Python there is.

A table is a dict, a log is a list, one thing happens after another. It knows DynamoDB's rules for conditions, updates
and event names, and nothing of protobuf, sequence numbers, blocks, files or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tests.values import Attributes, Key, Value, key_of


class ViewType(StrEnum):
    """Which images a stream records."""

    KEYS_ONLY = "KEYS_ONLY"
    NEW_IMAGE = "NEW_IMAGE"
    OLD_IMAGE = "OLD_IMAGE"
    NEW_AND_OLD_IMAGES = "NEW_AND_OLD_IMAGES"

    @property
    def has_new_image(self) -> bool:
        return "NEW" in self

    @property
    def has_old_image(self) -> bool:
        return "OLD" in self


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """attribute_exists(attribute), or attribute_not_exists(attribute)."""

    attribute: str
    exists: bool

    def holds(self, item: Attributes | None) -> bool:
        """Whether it holds for an item as it was; None is an item without attributes."""
        return (self.attribute in (item or {})) == self.exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Creates or replaces an item."""

    item: Attributes
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Removes an item, if there is one."""

    key: Attributes
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Sets and removes top-level attributes; with neither it has no expression at all."""

    key: Attributes
    sets: Mapping[str, Value] = field(default_factory=dict)
    removes: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


Operation = Put | Delete | Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of a log: what happened to one item. None is no item, or an image that the view type leaves out."""

    event_name: str
    keys: Attributes
    old_image: Attributes | None
    new_image: Attributes | None

    def seen_as(self, view_type: ViewType) -> Change:
        """The change as a stream with this view type records it."""
        return Change(
            event_name=self.event_name,
            keys=self.keys,
            old_image=self.old_image if view_type.has_old_image else None,
            new_image=self.new_image if view_type.has_new_image else None,
        )


@dataclass(slots=True)
class StreamModel:
    """One stream of a table, enabled or not."""

    view_type: ViewType
    enabled: bool = True
    log: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class TableModel:
    """One table: its items by key and all streams it ever had, the newest last."""

    key_names: tuple[str, ...]
    items: dict[Key, Attributes] = field(default_factory=dict)
    streams: list[StreamModel] = field(default_factory=list)

    @property
    def stream(self) -> StreamModel | None:
        """The enabled stream."""
        return self.streams[-1] if self.streams and self.streams[-1].enabled else None

    def enable_stream(self, view_type: ViewType) -> None:
        """Starts a new stream, empty whatever the table holds."""
        assert self.stream is None
        self.streams.append(StreamModel(view_type))

    def disable_stream(self) -> None:
        """Ends the enabled stream; its log stays."""
        assert self.stream is not None
        self.streams[-1].enabled = False

    def apply(self, operation: Operation) -> str:
        """Does one operation and returns the reason it is refused with, or an empty string."""
        content = operation.item if isinstance(operation, Put) else operation.key
        key = key_of(content, self.key_names)
        old = self.items.get(key)
        if not all(condition.holds(old) for condition in operation.conditions):
            return "CONDITIONAL_CHECK_FAILED"
        new = _outcome(operation, old)
        if new == old:
            return ""
        if new is None:
            del self.items[key]
        else:
            self.items[key] = new
        if self.stream is not None:
            keys = dict(zip(self.key_names, key, strict=True))
            self.stream.log.append(change(keys, old, new).seen_as(self.stream.view_type))
        return ""


def change(keys: Attributes, old: Attributes | None, new: Attributes | None) -> Change:
    """The change from one state of an item to another, with the event name that goes with it."""
    assert old != new
    event_name = "INSERT" if old is None else "REMOVE" if new is None else "MODIFY"
    return Change(event_name=event_name, keys=keys, old_image=old, new_image=new)


def replay(log: Iterable[Change], key_names: tuple[str, ...]) -> dict[Key, Attributes]:
    """The table that a log with new images leaves when it is applied to an empty one."""
    items: dict[Key, Attributes] = {}
    for entry in log:
        key = key_of(entry.keys, key_names)
        if entry.event_name == "REMOVE":
            del items[key]
        else:
            items[key] = _image(entry)
    return items


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexModel:
    """A secondary index: the names of its key attributes with their types (S, N or B), and of what it projects."""

    partition_keys: Mapping[str, str]
    sort_keys: Mapping[str, str]
    # Besides the key attributes, which include those of the table. None: everything.
    projected: frozenset[str] | None

    @property
    def keys(self) -> dict[str, str]:
        """All key attributes, those of the partition key first."""
        return {**self.partition_keys, **self.sort_keys}

    def entries(self, items: Iterable[Attributes], key_names: tuple[str, ...]) -> list[Attributes]:
        """What the index holds of a table's items: of those that have all its key attributes, of the right types."""
        shown = None if self.projected is None else {*key_names, *self.keys, *self.projected}
        return [
            {name: of for name, of in item.items() if shown is None or name in shown}
            for item in items
            if all(item.get(name, ("", None))[0] == type_ for name, type_ in self.keys.items())
        ]

    def rank(self, item: Attributes) -> list[object]:
        """Where in its partition an entry lies: by the sort key attributes, one after the other."""
        contents = (item[name] for name in self.sort_keys)
        return [content.encode() if type_ == "S" else content for type_, content in contents]


def _image(entry: Change) -> Attributes:
    assert entry.new_image is not None, "only a log with new images can be replayed"
    return entry.new_image


def _outcome(operation: Operation, old: Attributes | None) -> Attributes | None:
    """The item after an operation whose conditions hold; None is no item."""
    match operation:
        case Put():
            return dict(operation.item)
        case Delete():
            return None
        case Update():
            if old is None and operation.removes and not operation.sets:
                return None
            new = {**(old or operation.key), **operation.sets}
            return {name: member for name, member in new.items() if name not in operation.removes}

"""Keys that groups have set aside: a record of each failed, and it and all later records of the key wait, in order.

What waits is copied out of the log, so it does not age out with the stream. All changes are parts of the group commit;
what is kept in memory is as the planned operations have left it, like all documents.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from broker.encoding.records import record_key
from broker.model.errors import LeaseFencedError, ResourceNotFoundError, ValidationError
from broker.storage import layout
from broker.storage.documents import Documents
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.storage.commit import Group
    from broker.storage.rocks import Store

# What a group may set aside. Beyond it nothing more is parked, and what fails is tried for ever.
PARKED_KEYS_MAX: Final = 1_000
PARKED_RECORDS_MAX: Final = 100_000
PARKED_BYTES_MAX: Final = 64 * 1024 * 1024
_PREFIX: Final = "parkedId-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedKey:
    """A key that a group has set aside."""

    # Its number on disk, never used again.
    id: int
    group_name: str
    # As change records carry it, and its place in the hash range.
    key: bytes
    key_hash: int
    # The record that failed.
    shard_id: str
    sequence_number: int
    attempts: int
    last_error: str
    park_time_ms: int
    is_redriving: bool = False
    # The epoch of the newest lease to deliver its records again, as that of a shard.
    epoch: int = 0

    @property
    def parked_id(self) -> str:
        """Its public id; in the order of parking."""
        return f"{_PREFIX}{self.park_time_ms:020d}-{self.id:08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverted:
    """What is left of records once those of parked keys are set aside."""

    kept: list[tuple[int, bytes]]
    # The first record that could be neither kept nor set aside, as there is no room; None if all could.
    blocked_at: int | None


class _Lot:
    """What waits of one key."""

    __slots__ = ("key", "last_number", "records", "size_bytes")

    def __init__(self, key: ParkedKey) -> None:
        self.key = key
        # The numbers of the records that wait, and their sizes. There is at least one.
        self.records: deque[tuple[int, int]] = deque()
        self.size_bytes = 0
        self.last_number = 0


class _Lots:
    """What a group has set aside, and how much that is."""

    __slots__ = ("by_key", "records", "size_bytes")

    def __init__(self) -> None:
        self.by_key: dict[bytes, _Lot] = {}
        self.records = 0
        self.size_bytes = 0

    def has_room_for(self, size_bytes: int) -> bool:
        return self.records < PARKED_RECORDS_MAX and self.size_bytes + size_bytes <= PARKED_BYTES_MAX

    def add(self, lot: _Lot, number: int, size_bytes: int) -> None:
        lot.records.append((number, size_bytes))
        lot.last_number = number
        lot.size_bytes += size_bytes
        self.size_bytes += size_bytes
        self.records += 1

    def take_first(self, lot: _Lot) -> int:
        number, size_bytes = lot.records.popleft()
        lot.size_bytes -= size_bytes
        self.size_bytes -= size_bytes
        self.records -= 1
        return number

    def remove(self, lot: _Lot) -> None:
        del self.by_key[lot.key.key]
        self.size_bytes -= lot.size_bytes
        self.records -= len(lot.records)


class Parking:
    """The parked keys of all groups of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents = Documents(store, "parked", ParkedKey)
        self._lots: dict[str, _Lots] = {}
        for parked in self._documents.all():
            lots, lot = self._of(parked.group_name), _Lot(parked)
            lots.by_key[parked.key] = lot
            entries = store.scan(Family.PARKED, layout.parked_prefix(parked.id), layout.parked_end(parked.id))
            for key, value in entries:
                lots.add(lot, layout.parked_record_number(key), layout.parked_record_bytes(value))

    def keys(self, group_name: str) -> list[ParkedKey]:
        """The parked keys of a group, the oldest first."""
        lots = self._lots.get(group_name)
        return [] if lots is None else sorted((lot.key for lot in lots.by_key.values()), key=_parked_id)

    def get(self, group_name: str, parked_id: str) -> ParkedKey:
        """A parked key of a group. Raises ResourceNotFoundError."""
        return self._lot(group_name, parked_id).key

    def usage(self, parked: ParkedKey) -> tuple[int, int]:
        """How many records of a key wait, and their bytes. Raises ResourceNotFoundError."""
        lot = self._lot(parked.group_name, parked.parked_id)
        return len(lot.records), lot.size_bytes

    def records(self, group_name: str) -> int:
        """How many records of all keys of a group wait."""
        lots = self._lots.get(group_name)
        return 0 if lots is None else lots.records

    def has_room(self, group_name: str) -> bool:
        """Whether a group may set one more key aside."""
        lots = self._lots.get(group_name)
        return lots is None or (len(lots.by_key) < PARKED_KEYS_MAX and lots.has_room_for(1))

    def reaches(self, group_name: str, first_hash: int, last_hash: int) -> bool:
        """Whether any parked key of a group lies in a range of hashes."""
        lots = self._lots.get(group_name)
        return lots is not None and any(first_hash <= lot.key.key_hash <= last_hash for lot in lots.by_key.values())

    def concerns(self, group_name: str, records: Sequence[tuple[int, bytes]]) -> bool:
        """Whether any of some records is of a parked key."""
        lots = self._lots.get(group_name)
        return lots is not None and any(record_key(record) in lots.by_key for _, record in records)

    def last_number(self, group_name: str, parked_id: str) -> int:
        """The newest record of a key that was set aside. Raises ResourceNotFoundError."""
        return self._lot(group_name, parked_id).last_number

    def read(self, parked: ParkedKey, after: int, records_max: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """The next records of a key after a number: so many records and bytes at most, but one if there is one."""
        begin = layout.parked_record_key(parked.id, after + 1)
        records: list[tuple[int, bytes]] = []
        size = 0
        for key, value in self._store.scan(Family.PARKED, begin, layout.parked_end(parked.id)):
            record = layout.decode_parked_record(value)
            size += len(record)
            if records and size > bytes_max:
                break
            records.append((layout.parked_record_number(key), record))
            if len(records) == records_max:
                break
        return records

    def plan_park(self, group: Group, parked: ParkedKey, record: bytes) -> bool:
        """Sets a key aside, with the record that failed. False, and nothing is changed, if there is no room.

        `parked.id` is not looked at: the key gets a new one.
        """
        lots = self._of(parked.group_name)
        lot = lots.by_key.get(parked.key)
        if not lots.has_room_for(len(record)) or (lot is None and len(lots.by_key) >= PARKED_KEYS_MAX):
            return False
        if lot is None:
            parked = replace(parked, id=group.next_id(), park_time_ms=group.now_ms)
            lot = lots.by_key[parked.key] = _Lot(parked)
            self._documents.put(group, _name(parked), parked)
        if parked.sequence_number > lot.last_number:
            self._add(group, lots, lot, parked.sequence_number, record)
        return True

    def plan_divert(self, group: Group, group_name: str, records: Sequence[tuple[int, bytes]]) -> Diverted:
        """Sets aside those of a shard's records that are of parked keys."""
        lots = self._of(group_name)
        kept: list[tuple[int, bytes]] = []
        for number, record in records:
            lot = lots.by_key.get(record_key(record))
            if lot is None:
                kept.append((number, record))
            elif number > lot.last_number:
                if not lots.has_room_for(len(record)):
                    return Diverted(kept=kept, blocked_at=number)
                self._add(group, lots, lot, number, record)
            # Else it was set aside when it was read before.
        return Diverted(kept=kept, blocked_at=None)

    def plan_redrive(self, group: Group, group_name: str, parked_id: str) -> int:
        """Has a key, or with an empty id all keys, delivered again; returns how many were not before.

        Raises ResourceNotFoundError.
        """
        lots = [self._lot(group_name, parked_id)] if parked_id else list(self._of(group_name).by_key.values())
        begun = [lot for lot in lots if not lot.key.is_redriving]
        for lot in begun:
            self._put(group, lot, replace(lot.key, is_redriving=True))
        return len(begun)

    def plan_lease(self, group: Group, group_name: str, parked_id: str) -> int:
        """Begins a lease to deliver a key's records again; returns its epoch.

        Raises LeaseFencedError if the key is not to be redriven any more.
        """
        lot = self._find(group_name, parked_id)
        if lot is None or not lot.key.is_redriving:
            raise LeaseFencedError(f"{parked_id} is not redriven", shard_id=parked_id)
        self._put(group, lot, replace(lot.key, epoch=group.next_sequence_number()))
        return lot.key.epoch

    def plan_acknowledge(self, group: Group, group_name: str, parked_id: str, epoch: int, number: int) -> bool:
        """Drops the records up to a number, which are processed; returns whether the key has none left.

        Then it is no longer parked: its newer records are delivered as those of all keys. Raises LeaseFencedError.
        """
        lot = self._leased(group_name, parked_id, epoch)
        self._drop_through(group, lot, number)
        if lot.records:
            return False
        self._remove(group, lot)
        return True

    def plan_fail(
        self, group: Group, group_name: str, parked_id: str, epoch: int, number: int, *, error: str | None
    ) -> ParkedKey:
        """Notes that a record failed again, which ends the redrive; without an error it is merely to go elsewhere.

        The records before it are processed. Raises LeaseFencedError, and ValidationError if the record does not wait.
        """
        lot = self._leased(group_name, parked_id, epoch)
        if not any(number == waiting for waiting, _ in lot.records):
            raise ValidationError("sequence_number is of no record that waits", field="sequence_number")
        self._drop_through(group, lot, number - 1)
        key = replace(lot.key, epoch=group.next_sequence_number())
        if error is not None:
            key = replace(
                key, is_redriving=False, sequence_number=number, attempts=lot.key.attempts + 1, last_error=error
            )
        self._put(group, lot, key)
        return key

    def plan_discard(self, group: Group, group_name: str, parked_id: str) -> int:
        """Drops a key and its records; returns how many those were. Raises ResourceNotFoundError."""
        lot = self._lot(group_name, parked_id)
        dropped = len(lot.records)
        self._remove(group, lot)
        return dropped

    def plan_forget(self, group: Group, group_name: str) -> None:
        """Drops all that a group has set aside."""
        for lot in list(self._of(group_name).by_key.values()):
            self._remove(group, lot)
        self._lots.pop(group_name, None)

    def _of(self, group_name: str) -> _Lots:
        lots = self._lots.get(group_name)
        if lots is None:
            lots = self._lots[group_name] = _Lots()
        return lots

    def _find(self, group_name: str, parked_id: str) -> _Lot | None:
        parked = self._documents.get(f"{group_name}/{parked_id}")
        return None if parked is None else self._lots[group_name].by_key[parked.key]

    def _lot(self, group_name: str, parked_id: str) -> _Lot:
        lot = self._find(group_name, parked_id)
        if lot is None:
            raise ResourceNotFoundError(
                f"Consumer group {group_name} has no parked key {parked_id}", group_name=group_name, parked_id=parked_id
            )
        return lot

    def _leased(self, group_name: str, parked_id: str, epoch: int) -> _Lot:
        lot = self._find(group_name, parked_id)
        if lot is None or lot.key.epoch != epoch:
            raise LeaseFencedError(
                f"The lease of {parked_id} is over: epoch {epoch} is not the newest",
                shard_id=parked_id,
                lease_epoch=epoch,
            )
        return lot

    def _add(self, group: Group, lots: _Lots, lot: _Lot, number: int, record: bytes) -> None:
        key = layout.parked_record_key(lot.key.id, number)
        group.put(Family.PARKED, key, layout.encode_parked_record(record))
        lots.add(lot, number, len(record))

    def _drop_through(self, group: Group, lot: _Lot, number: int) -> None:
        lots = self._lots[lot.key.group_name]
        while lot.records and lot.records[0][0] <= number:
            group.put(Family.PARKED, layout.parked_record_key(lot.key.id, lots.take_first(lot)), None)

    def _put(self, group: Group, lot: _Lot, key: ParkedKey) -> None:
        lot.key = key
        self._documents.put(group, _name(key), key)

    def _remove(self, group: Group, lot: _Lot) -> None:
        group.delete_range(Family.PARKED, layout.parked_prefix(lot.key.id), layout.parked_end(lot.key.id))
        self._documents.delete(group, _name(lot.key))
        self._lots[lot.key.group_name].remove(lot)


def _name(parked: ParkedKey) -> str:
    return f"{parked.group_name}/{parked.parked_id}"


def _parked_id(parked: ParkedKey) -> str:
    return parked.parked_id

"""How far a read of a whole stream is, without the iterator that the broker gives for it."""

from __future__ import annotations

from dataclasses import replace

from headrace._records import RecordBatch


class Progress:
    """Finds a sequence number from which a read can go on, and leaves out what it then gets again.

    A number is a position in all shards: everything up to it, in each of them. But the shards of a stream take turns:
    when one is read to a number, another may not be, and there may be shards of which nothing has come yet. So neither
    the greatest number seen is safe, nor the smallest of the last ones of the shards seen. What is safe is a moment in
    which nothing was unread in any shard, and the broker tells it by a batch without records: everything up to the
    greatest number by then is read. From there a read can go on, and what each shard gave since is known by its last
    number. Before the first such moment there is no number to go on from.
    """

    def __init__(self) -> None:
        # Everything up to this number is read, in all shards; None if no such number is known.
        self.complete_to: str | None = None
        # The last number of each shard that was read since.
        self._read: dict[str, str] = {}

    def take(self, batch: RecordBatch) -> RecordBatch:
        """Notes a batch, and returns it without the records that were read before."""
        if not batch.records:
            if self._read and not batch.shard_end:
                self.complete_to = max(self._read.values())
                self._read.clear()
            return batch
        read, last = self._read.get(batch.shard_id, ""), batch.records[-1].sequence_number
        self._read[batch.shard_id] = max(read, last)
        if batch.records[0].sequence_number > read:
            return batch
        return replace(batch, records=[record for record in batch.records if record.sequence_number > read])

"""The replication peer: copies tables to other regions and keeps the copies equal by following their streams.

An ordinary client of both regions. On the path of a change:

    replicator  a link for every replica the source lists
    link        one replica: leads or stands by, recovers
    bootstrap   the first copy, and every copy after a gap: compare, send the differences
    follow      the stream: read, send, ack
    send        ApplyChanges, several requests ahead of their answers

`lifecycle` and `compare` decide, without I/O; `region` is the rim to the brokers; `report` keeps the progress; `verify`
compares a replica with its source.
"""

from headrace.replication.replicator import Replicator
from headrace.replication.verify import Verification, verify_replica

__all__ = ["Replicator", "Verification", "verify_replica"]

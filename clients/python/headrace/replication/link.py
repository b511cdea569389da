"""One link: drives one replica from its creation to its deletion, through every failure that may heal.

Any number of peers may run for the same source. Who copies and follows is decided by the consumer group of the replica:
one member holds its shards, that one leads, the others stand by. A leader reads what is durable after it has become the
leader, so it goes on where the last one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Final

from headrace._backoff import Backoff
from headrace.consumer import ConsumerSession
from headrace.replication import lifecycle
from headrace.replication.bootstrap import Bootstrap
from headrace.replication.follow import Follower, wall_clock_ms
from headrace.replication.lifecycle import LinkError, NeedsPersonError, Phase, Progress, StartOverError
from headrace.replication.region import Region
from headrace.replication.report import ReplicaEntry, Reporter
from headrace.replication.tasks import unless_stopped
from headrace.v1 import replication_service_pb2 as pb
from headrace.v1 import table_pb2

RETRY_INITIAL_S: Final = 0.2
RETRY_MAX_S: Final = 10.0

# How soon a replica that needs a person is looked at again, and how often whoever stands by looks whether it leads.
FAILED_RECHECK_S: Final = 30.0
STANDBY_POLL_S: Final = 1.0

# What a stop may take: requests on their way to the target, a checkpoint, a report.
STOP_TIMEOUT_S: Final = 10.0

_LOGGER: Final = logging.getLogger(__name__)


class Link:
    """Keeps one replica equal to its source, for as long as `run` runs."""

    def __init__(
        self,
        replica: pb.ReplicaDescription,
        source: Region,
        *,
        member_name: str,
        random: Random,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.entry = ReplicaEntry(source, replica)
        self._source_table_name = replica.source_table_name
        self._target_table_name = replica.target_table_name
        self._target_endpoint = replica.target_endpoint
        self._group_name = f"replica:{replica.replica_name}"
        self._source = source
        self._member_name = member_name
        self._backoff = Backoff(initial_s=RETRY_INITIAL_S, max_s=RETRY_MAX_S, random=random)
        self._now_ms = now_ms
        self._stopping = asyncio.Event()
        self._is_deleted = False
        # The target's table as this link has seen it; another one under the same name lacks what was copied.
        self._target_table_id = ""

    async def run(self) -> None:
        """Returns when the link is stopped, or its replica was deleted."""
        async with Region("target", self._target_endpoint) as target:
            driving = asyncio.create_task(self._run(target), name=f"link {self.entry.name}")
            stopping = asyncio.create_task(self._stopping.wait(), name=f"stop of link {self.entry.name}")
            try:
                await asyncio.wait({driving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait({driving}, timeout=STOP_TIMEOUT_S)
            finally:
                for task in (driving, stopping):
                    task.cancel()
                await asyncio.wait({driving, stopping})
        if not driving.cancelled():
            driving.result()
        if self._is_deleted:
            # The broker forgets the group with the replica; a session that was being opened may have made it anew.
            with contextlib.suppress(LinkError):
                await self._source.delete_group(self._group_name)

    def stop(self, *, is_deleted: bool = False) -> None:
        """Makes `run` return soon: what is under way is applied, acked and noted first."""
        self._is_deleted = self._is_deleted or is_deleted
        self._stopping.set()

    async def _run(self, target: Region) -> None:
        while not self._stopping.is_set() and not self._is_deleted:
            pause_s = await self._attempt(target)
            await unless_stopped(self._stopping, asyncio.sleep(pause_s))

    async def _attempt(self, target: Region) -> float:
        """Drives the replica until something fails, and returns how long to wait before the next attempt."""
        try:
            await self._drive(target)
        except LinkError as error:
            why = lifecycle.lost_changes(error)
            if why is not None:
                await self._start_over(why)
            else:
                _LOGGER.warning("a link is interrupted replica=%s error=%s", self.entry.name, error)
        except StartOverError as error:
            await self._start_over(str(error))
        except NeedsPersonError as error:
            _LOGGER.error("a replica needs a person replica=%s error=%s", self.entry.name, error)  # noqa: TRY400 - expected
            await self._tell(Progress.failed, str(error))
            return FAILED_RECHECK_S
        except Exception:
            # A defect, here or in a broker. The replica must not stop silently, nor take others with it.
            _LOGGER.exception("a link failed replica=%s", self.entry.name)
        else:
            return 0.0
        return self._backoff.next_s()

    async def _drive(self, target: Region) -> None:
        """Leads, or stands by. Returns when the leader changes, the replica was deleted or the link is stopped.

        The order is the correctness argument, together with headrace.replication.lifecycle.
        """
        # 1. What is durable, and whether there is a stream to follow.
        progress = await self._durable_progress()
        if progress is None:
            return
        await self._source_table()
        # 2. Where the group begins, if it is new: no snapshot that is copied from here on is older. At a beginning it
        #    must be new, for the position of an old one may be lost. While another peer is in it, come again later.
        after = progress.snapshot_sequence_number
        if not after:
            await self._source.delete_group(self._group_name)
            async with self._source.snapshot(self._source_table_name) as snapshot:
                after = snapshot.sequence_number
        async with self._source.consuming(
            self._source_table_name, self._group_name, after=after, member_name=self._member_name
        ) as session:
            # 3. Lead. Whoever led before may have done more than was durable in 1: then begin again there.
            if session.is_standby:
                # The leader may make the target's table anew.
                self._target_table_id = ""
                await self._stand_by(session)
                return
            before, progress = progress, await self._durable_progress()
            if progress is None or progress.snapshot_sequence_number != before.snapshot_sequence_number:
                return
            async with Reporter(self.entry, progress) as reporter:
                try:
                    await self._lead(target, session, reporter, after=after)
                except (StartOverError, NeedsPersonError):
                    raise
                except Exception as error:
                    # Only the leader says so: the progress it would be written with may be stale anywhere else.
                    reporter.note(reporter.progress.troubled(self._timed(_text(error))))
                    raise
                finally:
                    if reporter.progress.is_beyond(progress):
                        self._backoff.reset()

    async def _lead(self, target: Region, session: ConsumerSession, reporter: Reporter, *, after: str) -> None:
        # 4. The right stream, and the target's table; it is made if it is missing.
        source_table = await self._source_table_of(session.stream_arn)
        await self._ensure_target_table(target, source_table, reporter.progress)
        # 5. The sequence number is durable before the first item is copied.
        if reporter.progress.phase is Phase.BEGIN:
            await self._begin(target, session, reporter, after=after)
        # 6. Copy.
        if reporter.progress.phase is Phase.COPY:
            bootstrap = Bootstrap(
                source=self._source,
                source_table_name=self._source_table_name,
                target=target,
                target_table_name=self._target_table_name,
                key_names=lifecycle.key_names(source_table),
                reporter=reporter,
                stopping=self._stopping,
            )
            if not await bootstrap.run():
                return
            await reporter.commit(reporter.progress.bootstrapped())
            _LOGGER.info("copied replica=%s items=%d", self.entry.name, reporter.progress.items_copied)
        # 7. Follow.
        await Follower(
            session,
            source=self._source,
            target=target,
            target_table_name=self._target_table_name,
            reporter=reporter,
            stopping=self._stopping,
            check=lambda: self._check(target, session.stream_arn),
            now_ms=self._now_ms,
        ).run()

    async def _begin(self, target: Region, session: ConsumerSession, reporter: Reporter, *, after: str) -> None:
        async with target.snapshot(self._target_table_name) as snapshot:
            has_items = await snapshot.next_chunk() is not None
        lifecycle.check_target_is_free(
            self._target_table_name,
            source_region=session.region,
            target_region=snapshot.region_name,
            has_items=has_items,
        )
        await reporter.commit(
            reporter.progress.begun(snapshot_sequence_number=after, target_region=snapshot.region_name)
        )
        _LOGGER.info(
            "copying replica=%s target=%s region=%s", self.entry.name, self._target_endpoint, snapshot.region_name
        )

    async def _stand_by(self, session: ConsumerSession) -> None:
        waiting = asyncio.ensure_future(anext(session))
        try:
            while session.is_standby and not waiting.done() and not self._stopping.is_set():
                await unless_stopped(self._stopping, asyncio.wait({waiting}, timeout=STANDBY_POLL_S))
            if waiting.done():
                # Records, so the shards are held now; or what ended the session.
                waiting.result()
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})

    async def _source_table(self) -> table_pb2.TableDescription:
        table = await self._source.describe_table(self._source_table_name)
        return lifecycle.check_source(self._source_table_name, table)

    async def _source_table_of(self, stream_arn: str) -> table_pb2.TableDescription:
        table = await self._source_table()
        if table.latest_stream_arn != stream_arn:
            # The group reads the stream that was disabled; what changed before the new one began is in neither.
            raise StartOverError(
                f"the stream of the source table {self._source_table_name} was made anew, copying again"
            )
        return table

    async def _ensure_target_table(
        self, target: Region, source_table: table_pb2.TableDescription, progress: Progress
    ) -> None:
        if progress.phase is not Phase.BEGIN:
            await self._check_target_is_the_same(target)
        table = await target.ensure_table(lifecycle.target_table_request(source_table, self._target_table_name))
        lifecycle.check_target(source_table, table)
        self._target_table_id = table.table_id

    async def _check(self, target: Region, stream_arn: str) -> None:
        """Raises if the link could go on for ever without a change coming through."""
        await self._source_table_of(stream_arn)
        await self._check_target_is_the_same(target)

    async def _check_target_is_the_same(self, target: Region) -> None:
        table = await target.describe_table(self._target_table_name)
        if table is None or self._target_table_id not in {"", table.table_id}:
            raise StartOverError(f"the target table {self._target_table_name} was deleted, copying again")

    async def _durable_progress(self) -> Progress | None:
        progress = await self.entry.progress()
        if progress is None:
            self._is_deleted = True
            _LOGGER.info("the replica was deleted replica=%s", self.entry.name)
        return progress

    async def _start_over(self, why: str) -> None:
        _LOGGER.warning("a replica is copied again replica=%s reason=%s", self.entry.name, why)
        await self._tell(Progress.start_over, why)

    async def _tell(self, change: Callable[[Progress, str], Progress], why: str) -> None:
        """Notes what is wrong, as far as the source can be reached.

        Only for changes after which the table is copied from the beginning: they are safe whoever leads by now.
        """
        with contextlib.suppress(LinkError):
            progress = await self.entry.progress()
            if progress is not None:
                await self.entry.report(change(progress, self._timed(why)))

    def _timed(self, why: str) -> str:
        time = datetime.fromtimestamp(self._now_ms() / 1000, UTC)
        return f"{time:%Y-%m-%dT%H:%M:%SZ} {why}"


def _text(error: Exception) -> str:
    return f"{error.reason}: {error.message}" if isinstance(error, LinkError) else f"internal error: {error!r}"

"""The composition root: builds every object of a node, starts and stops them in order. No logic of its own."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

from broker.backups.folder import BackupFolder
from broker.backups.registry import Backups
from broker.config import ConfigError, split_address
from broker.consumers.groups import ConsumerGroups
from broker.consumers.members import Members
from broker.gateway.aws.operations import DynamoDB
from broker.gateway.aws.protocol import AwsProtocol
from broker.gateway.aws.signature import Signatures
from broker.gateway.cross_origin import CrossOrigin
from broker.gateway.server import HttpServer
from broker.memory import FreedMemory
from broker.model.clock import Clock, SystemClock
from broker.model.errors import CorruptionError
from broker.model.version import VERSION
from broker.replication.registry import Replicas, plan_end_all
from broker.rpc.server import AddressInUseError, Engine, RpcServer
from broker.storage.commit import Committer
from broker.storage.identity import Identity, open_identity
from broker.storage.journal import EmbeddedJournal
from broker.storage.note import NoteKeeper
from broker.storage.open_files import count_open, divide, raise_limit
from broker.storage.private import NotPrivateError, open_private_folder
from broker.storage.recovery import ClockError, StoreOpenError, check_stored_time
from broker.storage.rocks import Store
from broker.storage.space import FolderWatch, Space
from broker.storage.watermark import Watermarks
from broker.streams.iterators import Iterators
from broker.streams.metering import Metering
from broker.streams.tail import LogReader
from broker.tables.capacity import CapacityMetering
from broker.tables.catalog import Catalog
from broker.tables.housekeeping import Backfill, Expiry
from broker.tables.read import ItemReader
from broker.tables.renewal import renew_streams
from broker.tables.transactions import RequestTokens
from broker.tables.upkeep import Upkeep
from broker.telemetry import Metric, Row, Telemetry
from broker.triggers.registry import Triggers

if TYPE_CHECKING:
    from broker.config import Config

_SEED_BITS: Final = 128
_MILLIS_PER_SECOND: Final = 1000

_log: Final = logging.getLogger(__name__)


class Node:
    """One broker process's worth of objects."""

    def __init__(
        self, config: Config, clock: Clock | None = None, *, accepts_loss: bool = False, accepts_clock: bool = False
    ) -> None:
        """Opens the store.

        Raises ConfigError if it belongs to another region, and StoreOpenError if it is in use. Raises LossError if it
        has lost acknowledged writes, and ClockError if it was written with a clock far ahead of this one, unless the
        loss, or the clock, is accepted.
        """
        self._config = config
        access_keys = config.access_keys()
        clock = clock or SystemClock()
        random = SystemRandom()
        region = config.region
        self._telemetry = telemetry = Telemetry()
        data = Path(config.data)
        self._open_files = open_files = divide(raise_limit())
        self._space, self._store = _open_store(config, open_files.store, accepts_loss=accepts_loss)
        store = self._store
        try:
            identity = _check_store(config, store, clock.now_ms(), random, accepts_clock=accepts_clock)
        except (ConfigError, ClockError):
            store.close()
            raise
        watermarks = Watermarks()
        self._journal = EmbeddedJournal(store)
        self._committer = committer = Committer(store, self._journal, watermarks, clock, region, self._space)
        self._folder_watch = FolderWatch(data, self._space)
        self._note_keeper = NoteKeeper(data, store, committer, clock)
        capacity = CapacityMetering(clock)

        def forget(id_: int) -> None:
            capacity.forget(id_)
            self._upkeep.note_dropped(id_)

        catalog = Catalog(store, committer, region, random, forget)
        log = LogReader(store, watermarks, committer.clock)
        for stream in catalog.streams.all():
            log.recover(stream)
        metering = Metering()
        self._upkeep = Upkeep(catalog, committer, log, store, clock, metering.forget)
        self._backfill = Backfill(catalog, committer, store)
        self._expiry = Expiry(catalog, committer, store, clock)
        triggers, replicas = Triggers(store, committer), Replicas(store, committer)
        groups = ConsumerGroups(store, committer, catalog, {"trigger": triggers.exists, "replica": replicas.exists})
        self._items = items = ItemReader(store, committer)
        folder = BackupFolder(config.backups_folder, Path(config.data))
        self._backups = backups = Backups(folder, store, committer, catalog, clock, random)
        members = Members(groups, catalog, log, items, committer, watermarks, committer.clock)
        engine = Engine(
            catalog=catalog,
            committer=committer,
            items=items,
            tokens=RequestTokens(store),
            watermarks=watermarks,
            log=log,
            metering=metering,
            capacity=capacity,
            iterators=Iterators(identity.iterator_secret, clock),
            groups=groups,
            members=members,
            triggers=triggers,
            replicas=replicas,
            backups=backups,
        )
        self._rpc = RpcServer(engine, telemetry, open_files.connections)
        signatures = None if config.auth == "none" else Signatures(access_keys, region, clock)
        aws = AwsProtocol(
            DynamoDB(self._rpc.json_calls, region, items.turns),
            signatures,
            Random(random.getrandbits(_SEED_BITS)),  # noqa: S311 - names, no secrets
        )
        cross_origin = CrossOrigin(config.allowed_origins)
        self._http = HttpServer(
            region,
            lambda: self._is_serving,
            aws,
            cross_origin,
            telemetry.render,
            connections_max=open_files.connections,
        )
        self._is_serving = False
        self._committing: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._expose_metrics(committer, log, metering, capacity, members, signatures)

    async def start(self) -> dict[str, str]:
        """Serves; returns the version, the region and the addresses. Raises AddressInUseError if a port is taken."""
        self._committing = asyncio.create_task(self._committer.run(), name="committer")
        interval = self._config.upkeep_interval_seconds
        self._background = [
            asyncio.create_task(self._upkeep.run(interval), name="upkeep"),
            asyncio.create_task(self._folder_watch.run(), name="folder watch"),
            asyncio.create_task(self._note_keeper.run(interval), name="note keeper"),
            asyncio.create_task(self._backfill.run(), name="backfill"),
            asyncio.create_task(self._expiry.run(interval), name="expiry"),
            asyncio.create_task(FreedMemory().run(), name="freed memory"),
        ]
        await self._backups.start()
        grpc_host, _ = split_address("grpc", self._config.grpc)
        http_host, http_port = split_address("http", self._config.http)
        try:
            http_port = await self._http.start(http_host, http_port)
        except OSError as error:
            raise AddressInUseError(f"cannot listen on {self._config.http}") from error
        grpc_port = await self._rpc.start(self._config.grpc)
        self._is_serving = True
        _log.info("opened the store data=%s %s", self._config.data, self._store.replay)
        _log.info("open files limit=%d store=%d connections_per_port=%d", *self._open_files)
        _log.info(
            "serving version=%s region=%s grpc=%s:%d http=%s:%d",
            VERSION,
            self._config.region,
            grpc_host,
            grpc_port,
            http_host,
            http_port,
        )
        return {
            "version": VERSION,
            "region": self._config.region,
            "grpc": f"{grpc_host}:{grpc_port}",
            "http": f"{http_host}:{http_port}",
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set. Raises what the committer raised if the disk fails, or a defect of the upkeep."""
        assert self._committing is not None, "start comes first"
        stopping = asyncio.create_task(stop.wait())
        own = (self._committing, *self._background)
        await asyncio.wait((stopping, *own), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in own:
            if task.done():
                await task

    async def close(self) -> None:
        """Stops in the order that loses nothing: callers, then writes under way, then the store."""
        self._is_serving = False
        await self._rpc.close()
        await self._http.close()
        self._items.turns.close()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._backups.close()
        self._committer.close()
        if self._committing is not None:
            await asyncio.wait((self._committing,))
        await self._journal.close()
        await self._note_keeper.close()
        self._store.close()

    def _expose_metrics(
        self,
        committer: Committer,
        log: LogReader,
        metering: Metering,
        capacity: CapacityMetering,
        members: Members,
        signatures: Signatures | None,
    ) -> None:
        telemetry = self._telemetry
        telemetry.counter("headrace_groups", "Group commits", lambda: committer.groups_total)
        telemetry.counter("headrace_operations", "Operations evaluated", lambda: committer.operations_total)
        telemetry.counter("headrace_records_read", "Change records sent to readers", lambda: log.records_total)
        telemetry.counter(
            "headrace_record_bytes_read", "Bytes of change records sent to readers", lambda: log.bytes_total
        )
        telemetry.series(
            (
                Metric("counter", "headrace_stream_read_request_units", "Streams read request units"),
                Metric("counter", "headrace_stream_returned_records", "Change records returned by GetRecords"),
                Metric("counter", "headrace_stream_returned_bytes", "Bytes of change records returned by GetRecords"),
            ),
            ("table", "stream_label"),
            lambda: (
                Row(
                    (usage.table_name, usage.stream_label),
                    (usage.read_request_units, usage.returned_records, usage.returned_bytes),
                )
                for usage in metering.all()
            ),
        )
        telemetry.series(
            (
                Metric("counter", "headrace_consumed_read_capacity_units", "Read units consumed"),
                Metric("counter", "headrace_consumed_write_capacity_units", "Write units consumed"),
                Metric("counter", "headrace_throttled_requests", "Requests beyond provisioned throughput"),
            ),
            ("table",),
            lambda: (
                Row((usage.table_name,), (usage.read_units, usage.write_units, usage.throttled_requests))
                for usage in capacity.all()
            ),
        )
        telemetry.counter(
            "headrace_expired_items", "Items deleted because their time had come", lambda: self._expiry.deleted_total
        )
        telemetry.counter(
            "headrace_trimmed_bytes",
            "Bytes of change records trimmed",
            lambda: self._upkeep.trimmed_bytes_total,
        )
        telemetry.series(
            (
                Metric("gauge", "headrace_consumer_lag_records", "Records that a consumer group has not processed"),
                Metric("gauge", "headrace_consumer_lag_milliseconds", "How long ago the oldest of them was written"),
            ),
            ("group", "shard"),
            lambda: (Row((group, shard), lag) for group, shard, lag in members.lags()),
        )
        telemetry.counter(
            "headrace_http_malformed_requests",
            "Requests to the HTTP port that were not HTTP",
            lambda: self._http.malformed_requests_total,
        )
        if signatures is not None:
            telemetry.series(
                (Metric("counter", "headrace_authentication_failures", "Requests whose signature was refused"),),
                ("reason",),
                lambda: [Row((reason,), (count,)) for reason, count in signatures.failures()],
            )
        telemetry.gauge("headrace_disk_free_bytes", "Free on the disk of the data", lambda: self._space.free_bytes)
        telemetry.gauge("headrace_disk_reserve_bytes", "Kept back of it", lambda: self._space.reserve_bytes)
        telemetry.counter(
            "headrace_disk_full_refusals", "Writes refused for want of room", lambda: self._space.refused_total
        )
        telemetry.counter(
            "headrace_damaged_reads",
            "How often stored data could not be read, or was not what was written",
            lambda: CorruptionError.met_total,
        )
        telemetry.gauge("headrace_open_files", "Files and connections that are open", count_open)
        telemetry.gauge("headrace_open_files_limit", "How many may be", lambda: self._open_files.limit)
        telemetry.counter(
            "headrace_http_refused_connections",
            "Connections to the HTTP port that were closed at once, beyond its share of the open files",
            lambda: self._http.refused_connections_total,
        )
        telemetry.gauge(
            "headrace_stored_time_ahead_seconds",
            "How far the newest stored time is ahead of the clock",
            lambda: committer.ahead_ms // _MILLIS_PER_SECOND,
        )
        telemetry.series(
            (Metric("gauge", "headrace_request_bytes_under_way", "Bytes of requests that are received or worked on"),),
            ("port",),
            lambda: [Row(("grpc",), (self._rpc.request_bytes,)), Row(("http",), (self._http.request_bytes,))],
        )
        telemetry.gauge("headrace_queued_operations", "Operations that wait", lambda: committer.queued_operations)
        telemetry.gauge(
            "headrace_sequence_number", "Last sequence number given", lambda: committer.last_sequence_number
        )


def _open_store(config: Config, files_max: int, *, accepts_loss: bool) -> tuple[Space, Store]:
    """Opens the data folder, or makes it. Raises StoreOpenError, and LossError unless a loss is accepted."""
    data = Path(config.data)
    try:
        open_private_folder(data)
        space = Space(data, config.disk_reserve_bytes)
    except NotPrivateError as error:
        raise StoreOpenError(f"data: {error}") from error
    except OSError as error:
        raise StoreOpenError(f"cannot open the data folder {data}: {error}") from error
    space.look()
    space.keep_file()
    store = Store(
        data,
        accepts_loss=accepts_loss,
        open_files_max=files_max,
        log_bytes_max=space.log_bytes_max,
        is_tight=space.is_tight,
    )
    space.tell(lambda is_tight: store.set_compactions(are_automatic=not is_tight))
    return space, store


def _check_store(config: Config, store: Store, now_ms: int, random: Random, *, accepts_clock: bool) -> Identity:
    """The identity of an open store, whose streams are renewed and whose replicas end if it has lost writes.

    Raises ConfigError if it belongs to another region, and ClockError if it is ahead of the clock.
    """
    check_stored_time(Path(config.data), store.counters(), now_ms, is_accepted=accepts_clock)
    identity = open_identity(store, config.region, random)
    if identity.region != config.region:
        raise ConfigError(
            f"region: the data folder {config.data} belongs to region {identity.region}, not {config.region}"
        )
    if store.loss is not None:
        renewed = renew_streams(store, config.region, now_ms, partial(plan_end_all, store))
        _log.warning("streams have new labels after a loss count=%d", renewed)
    return identity

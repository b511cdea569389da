"""The public face of `headrace`: what users may rely on."""

from __future__ import annotations

import inspect
import subprocess
import sys

import headrace

# ruff: noqa: SIM905 - one name a line would hide the list

PUBLIC_NAMES = """
    Action AsyncClient AsyncConsumerBatch AsyncConsumerFunction BackupDescription BackupDetails BackupInUseError
    BackupNotFoundError CancellationReason Capacity CapacityMeter ChangeRecord Client ConditionCheck
    ConditionalCheckFailedError ConsumedCapacity ConsumerBatch ConsumerFunction ConsumerGroup
    ConsumerGroupExplanation DeadlineExceededError Delete ExpiredIteratorError Gap Get GlobalIndex GlobalIndexUpdate
    HeadraceError IdempotentParameterMismatchError IndexDescription InvalidRestoreTimeError Item KeyAttribute
    KeyType Keys LeaseFencedError LimitExceededError LocalIndex NackReason OnDemandThroughput Operation Page
    ParkedKey PointInTimeRecovery PointInTimeRecoveryUnavailableError ProjectionType ProvisionedThroughput
    ProvisionedThroughputExceededError Put ReadUsage RecordBatch ResourceInUseError ResourceNotFoundError
    RestoreSummary ReturnValues Select Shard ShardCheckpoint ShardExplanation ShardIteratorType Stream
    StreamDescription StreamSettings TableAlreadyExistsError TableClass TableDescription ThrottlingError
    ThroughputChanges TimeToLive TransactionCanceledError TrimmedDataAccessError UnavailableError Update
    ValidationError Version ViewType WarmThroughput WriteResult consumes
""".split()

CALLS = """
    batch_get_item batch_write_item close consume create_backup create_table delete_backup delete_consumer_group
    delete_item delete_table describe_backup describe_consumer_group describe_continuous_backups describe_stream
    describe_table describe_time_to_live discard_parked_key explain_consumer_group get_item get_parked_records
    get_records get_shard_iterator list_backups list_consumer_groups list_parked_keys list_streams list_tables
    list_tags_of_resource merge_shards put_item query query_page redrive_parked_keys restore_table_from_backup
    restore_table_to_point_in_time scan scan_page snapshot split_shard tag_resource tail transact_get_items
    transact_write_items untag_resource update_continuous_backups update_item update_stream_settings update_table
    update_time_to_live wait_for_indexes write_items
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(headrace.__all__) == PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        assert getattr(headrace, name) is not None
    assert set(PUBLIC_NAMES) <= set(dir(headrace))


def test_both_clients_have_these_calls() -> None:
    for client in (headrace.Client, headrace.AsyncClient):
        assert [name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")] == CALLS


def test_both_clients_take_the_same_arguments() -> None:
    for name in (*CALLS, "__init__"):
        taken = [
            [(argument.name, argument.kind, argument.default) for argument in parameters(client, name)]
            for client in (headrace.Client, headrace.AsyncClient)
        ]
        assert taken[0] == taken[1]


def parameters(client: type, call: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(client, call)).parameters.values())


# Command lines and trigger workers pay for every import before they do anything.
def test_importing_headrace_loads_neither_grpc_nor_protobuf() -> None:
    program = "import sys, headrace, headrace.errors; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "headrace.errors" in loaded
    assert not {"grpc", "google.protobuf", "click", "rich", "aiohttp"} & set(loaded)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(headrace, "NoSuchName")

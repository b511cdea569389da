"""TableService: requests to the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model.errors import ValidationError
from broker.model.tables import StreamSettings
from broker.rpc import convert
from broker.tables.validate import check_key_schema, check_table_name, page_limit
from headrace.v1 import table_pb2
from headrace.v1 import table_service_pb2 as pb

if TYPE_CHECKING:
    from broker.tables.catalog import Catalog


class TableService:
    """Implements headrace.v1.TableService."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateTable(self, request: pb.CreateTableRequest) -> pb.CreateTableResponse:
        """Creates a table."""
        check_table_name(request.table_name)
        definitions = request.attribute_definitions
        partition_key, sort_key = check_key_schema(
            convert.key_schema_pairs(request.key_schema), convert.definition_letters(definitions), len(definitions)
        )
        view_type = convert.view_type_to_enable(request.stream_specification)
        settings = convert.changed_settings(StreamSettings(), request.stream_settings)
        table = await self._catalog.create_table(request.table_name, partition_key, sort_key, view_type, settings)
        return pb.CreateTableResponse(table_description=convert.table_description(table, self._catalog))

    async def DescribeTable(self, request: pb.DescribeTableRequest) -> pb.DescribeTableResponse:
        """Describes a table."""
        table = self._catalog.open_table(request.table_name).definition
        return pb.DescribeTableResponse(table=convert.table_description(table, self._catalog))

    async def ListTables(self, request: pb.ListTablesRequest) -> pb.ListTablesResponse:
        """Lists tables."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        tables, more = self._catalog.tables.page(request.exclusive_start_table_name, limit)
        names = [table.name for table in tables]
        return pb.ListTablesResponse(table_names=names, last_evaluated_table_name=names[-1] if more else "")

    async def UpdateTable(self, request: pb.UpdateTableRequest) -> pb.UpdateTableResponse:
        """Switches the stream of a table, or changes its settings."""
        has_specification = request.HasField("stream_specification")
        if not has_specification and not request.HasField("stream_settings"):
            raise ValidationError("stream_specification or stream_settings is required", field="stream_specification")
        table = await self._catalog.update_table(
            request.table_name,
            lambda settings: convert.changed_settings(settings, request.stream_settings),
            switch_stream=has_specification,
            view_type=convert.view_type_to_enable(request.stream_specification) if has_specification else None,
        )
        return pb.UpdateTableResponse(table_description=convert.table_description(table, self._catalog))

    async def DeleteTable(self, request: pb.DeleteTableRequest) -> pb.DeleteTableResponse:
        """Removes a table."""
        table = await self._catalog.delete_table(request.table_name)
        description = convert.table_description(table, self._catalog, table_pb2.TABLE_STATUS_DELETING)
        return pb.DeleteTableResponse(table_description=description)

"""TableService: requests to the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.model.errors import ValidationError
from broker.rpc import convert
from broker.tables.validate import (
    TAGS_MAX,
    TIME_TO_LIVE_ATTRIBUTE_LENGTH_MAX,
    check_count,
    check_length,
    check_table_name,
    check_tag_key,
    check_tags,
    page_limit,
)
from headrace.v1 import table_pb2
from headrace.v1 import table_service_pb2 as pb

if TYPE_CHECKING:
    from broker.tables.catalog import Catalog

_TAGS_PAGE_SIZE: Final = 10


class TableService:
    """Implements headrace.v1.TableService."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateTable(self, request: pb.CreateTableRequest) -> pb.CreateTableResponse:
        """Creates a table."""
        table = await self._catalog.create_table(
            convert.new_table(request, self._catalog.table_name(request.table_name))
        )
        return pb.CreateTableResponse(table_description=convert.table_description(table, self._catalog))

    async def DescribeTable(self, request: pb.DescribeTableRequest) -> pb.DescribeTableResponse:
        """Describes a table."""
        table = self._catalog.open_table(request.table_name).definition
        return pb.DescribeTableResponse(table=convert.table_description(table, self._catalog))

    async def ListTables(self, request: pb.ListTablesRequest) -> pb.ListTablesResponse:
        """Lists tables."""
        limit = page_limit(request.limit if request.HasField("limit") else None)
        start = convert.text_of(request, "exclusive_start_table_name")
        if start is not None:
            check_table_name(start, "exclusive_start_table_name")
        tables, more = self._catalog.tables.page(start or "", limit)
        names = [table.name for table in tables]
        return pb.ListTablesResponse(table_names=names, last_evaluated_table_name=names[-1] if more else "")

    async def UpdateTable(self, request: pb.UpdateTableRequest) -> pb.UpdateTableResponse:
        """Changes a table."""
        name = self._catalog.table_name(request.table_name)
        table = await self._catalog.update_table(name, convert.table_change(request))
        return pb.UpdateTableResponse(table_description=convert.table_description(table, self._catalog))

    async def DeleteTable(self, request: pb.DeleteTableRequest) -> pb.DeleteTableResponse:
        """Removes a table."""
        table = await self._catalog.delete_table(request.table_name)
        description = convert.table_description(table, self._catalog, table_pb2.TABLE_STATUS_DELETING)
        return pb.DeleteTableResponse(table_description=description)

    async def UpdateTimeToLive(self, request: pb.UpdateTimeToLiveRequest) -> pb.UpdateTimeToLiveResponse:
        """Lets items expire, or ends that."""
        specification = request.time_to_live_specification
        check_length(
            specification.attribute_name,
            "time_to_live_specification.attribute_name",
            1,
            TIME_TO_LIVE_ATTRIBUTE_LENGTH_MAX,
        )
        await self._catalog.update_time_to_live(
            request.table_name, specification.attribute_name, is_enabled=specification.enabled
        )
        return pb.UpdateTimeToLiveResponse(time_to_live_specification=specification)

    async def DescribeTimeToLive(self, request: pb.DescribeTimeToLiveRequest) -> pb.DescribeTimeToLiveResponse:
        """Says whether items expire."""
        expiry = self._catalog.open_table(request.table_name).definition.time_to_live
        if expiry is None:
            return pb.DescribeTimeToLiveResponse(time_to_live_status=pb.TIME_TO_LIVE_STATUS_DISABLED)
        status = pb.TIME_TO_LIVE_STATUS_ENABLING if expiry.is_backfilling else pb.TIME_TO_LIVE_STATUS_ENABLED
        return pb.DescribeTimeToLiveResponse(time_to_live_status=status, attribute_name=expiry.attribute)

    async def TagResource(self, request: pb.TagResourceRequest) -> pb.TagResourceResponse:
        """Adds tags."""
        if not request.tags:
            raise ValidationError("Atleast one Tag needs to be provided as Input.", field="tags", limit=1)
        check_count(request.tags, "tags", 1, TAGS_MAX)
        await self._catalog.tag_table(request.resource_arn, check_tags(convert.tag_pairs(request.tags)))
        return pb.TagResourceResponse()

    async def UntagResource(self, request: pb.UntagResourceRequest) -> pb.UntagResourceResponse:
        """Removes tags."""
        if not request.tag_keys:
            raise ValidationError("Atleast one Tag Key needs to be provided as Input.", field="tag_keys", limit=1)
        check_count(request.tag_keys, "tag_keys", 1, TAGS_MAX)
        for key in request.tag_keys:
            check_tag_key(key, "tag_keys")
        await self._catalog.untag_table(request.resource_arn, set(request.tag_keys))
        return pb.UntagResourceResponse()

    async def ListTagsOfResource(self, request: pb.ListTagsOfResourceRequest) -> pb.ListTagsOfResourceResponse:
        """Lists tags."""
        start = convert.text_of(request, "next_token") or ""
        tags = self._catalog.open_table_of_arn(request.resource_arn).definition.tags
        keys = sorted(key for key in tags if key > start)
        page = keys[:_TAGS_PAGE_SIZE]
        return pb.ListTagsOfResourceResponse(
            tags=[table_pb2.Tag(key=key, value=tags[key]) for key in page],
            next_token=page[-1] if len(keys) > len(page) else "",
        )

"""Small documents in the catalog: tables, streams, groups, triggers, replicas. One typed collection per kind.

A collection holds all its documents in memory, as the planned operations have left them; every change is a mutation
of the group that plans it, so that memory never says more than the log that follows will.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from broker.model.errors import CorruptionError
from broker.storage.rocks import Family

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView

    from broker.storage.commit import Group
    from broker.storage.rocks import Store

Document = TypeVar("Document")


class Documents(Generic[Document]):
    """The documents of one kind, by name."""

    def __init__(
        self,
        store: Store,
        kind: str,
        document_type: type[Document],
        complete: Callable[[Document], Document] = lambda document: document,
        upgrade: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Loads all documents of a kind. Raises CorruptionError if one cannot be read.

        Both functions are for documents of earlier versions: `upgrade` changes the JSON of a document to today's form,
        where defaults of new fields are not enough for that; `complete` adds what the document then lacks. What they
        change is stored when the document is changed next.
        """
        self._prefix = f"{kind}/".encode()
        decoder = msgspec.json.Decoder(document_type)
        self._documents: dict[str, Document] = {}
        for key, value in store.scan(Family.CATALOG, self._prefix, f"{kind}0".encode()):
            try:
                document = decoder.decode(value) if upgrade is None else _upgraded(value, document_type, upgrade)
                self._documents[key[len(self._prefix) :].decode()] = complete(document)
            except (msgspec.MsgspecError, AttributeError, TypeError) as error:
                raise CorruptionError(f"the {kind} document {key!r} is not what was written: {error}") from error

    def get(self, name: str) -> Document | None:
        """The document of a name, or None."""
        return self._documents.get(name)

    def all(self) -> list[Document]:
        """All documents, by name in the order of its UTF-8 bytes."""
        return [self._documents[name] for name in self._names()]

    def items(self) -> ItemsView[str, Document]:
        """All documents with their names, in no order."""
        return self._documents.items()

    def page(self, after: str, limit: int) -> tuple[list[Document], bool]:
        """Up to `limit` documents whose names follow `after`, and whether more remain."""
        names = self._names()
        start = bisect_right(names, after.encode(), key=str.encode) if after else 0
        return [self._documents[name] for name in names[start : start + limit]], start + limit < len(names)

    def put(self, group: Group, name: str, document: Document) -> None:
        """Adds or replaces a document, as part of a group."""
        group.put(Family.CATALOG, self._prefix + name.encode(), msgspec.json.encode(document))
        self._documents[name] = document

    def delete(self, group: Group, name: str) -> None:
        """Removes a document, as part of a group."""
        group.put(Family.CATALOG, self._prefix + name.encode(), None)
        del self._documents[name]

    def _names(self) -> list[str]:
        return sorted(self._documents, key=str.encode)


def _upgraded(value: bytes, document_type: type[Document], upgrade: Callable[[dict[str, Any]], None]) -> Document:
    document = msgspec.json.decode(value, type=dict[str, Any])
    upgrade(document)
    return msgspec.convert(document, document_type)

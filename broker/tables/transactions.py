"""Transactions: writes and checks of several items as one operation of the group commit.

An operation is evaluated at one point between all others, so there are no locks and no conflicts: what a transaction
decides cannot be overtaken before it is carried out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.model.errors import (
    ConditionalCheckFailedError,
    HeadraceError,
    IdempotentParameterMismatchError,
    ProvisionedThroughputExceededError,
    ThrottlingError,
    TransactionCanceledError,
    ValidationError,
)
from broker.storage.documents import Documents
from broker.tables.capacity import Consumption, by_table
from broker.tables.operations import consumption_of, replace_item

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.storage.commit import Group
    from broker.storage.rocks import Store
    from broker.tables.capacity import CapacityMetering
    from broker.tables.operations import Decision, Write

# How long a request token stands for its request, after that was carried out.
TOKEN_SECONDS: Final = 10 * 60
# So many are kept; beyond it transactions with a token are told to come again.
TOKENS_MAX: Final = 100_000

# Of each transaction with a token so many old ones are dropped: more go than come.
_DROPPED_AT_ONCE: Final = 4
_MILLIS_PER_SECOND: Final = 1000
_RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestToken:
    """What a client calls a request, so that sending it twice has the effect of once."""

    name: str
    # Of the request's content.
    digest: bytes
    # When the request was carried out.
    time_ms: int = 0


class RequestTokens:
    """The tokens of the last minutes. They are durable with what they stand for."""

    def __init__(self, store: Store) -> None:
        self._documents = Documents(store, "token", RequestToken)
        self._oldest_first = deque(sorted((token for _, token in self._documents.items()), key=_time))

    def plan_check(self, group: Group, token: RequestToken) -> bool:
        """Whether the request of a token was carried out before. Raises IdempotentParameterMismatchError.

        Raises ThrottlingError if there is no room for one more.
        """
        self._drop_old(group)
        known = self._documents.get(token.name)
        if known is not None and known.time_ms > _expired_ms(group):
            if known.digest != token.digest:
                raise IdempotentParameterMismatchError(
                    "The request uses the same client token as a previous, but non-identical request",
                    field="client_request_token",
                )
            return True
        if len(self._oldest_first) >= TOKENS_MAX:
            raise ThrottlingError(
                f"{TOKENS_MAX} transactions with a token were carried out in {TOKEN_SECONDS} seconds, the limit",
                retry_after_ms=_RETRY_AFTER_MS,
                limit=TOKENS_MAX,
            )
        return False

    def plan_note(self, group: Group, token: RequestToken) -> None:
        """Notes that the request of a token is carried out."""
        noted = RequestToken(name=token.name, digest=token.digest, time_ms=group.now_ms)
        self._documents.put(group, noted.name, noted)
        self._oldest_first.append(noted)

    def _drop_old(self, group: Group) -> None:
        for _ in range(_DROPPED_AT_ONCE):
            if not self._oldest_first or self._oldest_first[0].time_ms > _expired_ms(group):
                return
            oldest = self._oldest_first.popleft()
            # It may have been used again since.
            if self._documents.get(oldest.name) is oldest:
                self._documents.delete(group, oldest.name)


class Transaction:
    """Writes and checks of different items, all carried out or none."""

    __slots__ = ("_metering", "_token", "_tokens", "_writes", "size_bytes")

    def __init__(
        self,
        writes: Sequence[Write],
        metering: CapacityMetering,
        tokens: RequestTokens,
        token: RequestToken | None,
    ) -> None:
        self._writes = writes
        self._metering = metering
        self._tokens = tokens
        self._token = token
        self.size_bytes = sum(write.size_bytes for write in writes)

    def plan(self, group: Group) -> list[Consumption]:
        """Carries the transaction out; returns what it has consumed, by table.

        Raises TransactionCanceledError with a cause for each write that is refused, IdempotentParameterMismatchError,
        ResourceNotFoundError, ThrottlingError.
        """
        for write in self._writes:
            write.table.check_exists()
        if self._token is not None and self._tokens.plan_check(group, self._token):
            return by_table(Consumption(write.table.definition) for write in self._writes)
        decisions: list[Decision | None] = []
        causes: list[HeadraceError | None] = []
        for write in self._writes:
            cause: HeadraceError | None = None
            decision = None
            try:
                self._metering.admit_write(write.table.definition)
                decision = write.decide(group)
            except (ConditionalCheckFailedError, ValidationError, ProvisionedThroughputExceededError) as error:
                cause = error
            decisions.append(decision)
            causes.append(cause)
        if any(causes):
            consumed = self._consume(
                consumption_of(write.table, getattr(cause, "item", None), None, (), transactional=True)
                for write, cause in zip(self._writes, causes, strict=True)
            )
            raise TransactionCanceledError(causes, consumed)
        if self._token is not None:
            self._tokens.plan_note(group, self._token)
        return self._consume(
            self._carry_out(group, write, decision)
            for write, decision in zip(self._writes, decisions, strict=True)
            if decision is not None
        )

    def _carry_out(self, group: Group, write: Write, decision: Decision) -> Consumption:
        old, new = decision
        changes = replace_item(group, write.table, write.key, old, new)
        return consumption_of(write.table, None if old is None else old.item, new, changes, transactional=True)

    def _consume(self, consumptions: Iterable[Consumption]) -> list[Consumption]:
        consumed = by_table(consumptions)
        for consumption in consumed:
            self._metering.consume(consumption)
        return consumed


def _expired_ms(group: Group) -> int:
    return group.now_ms - TOKEN_SECONDS * _MILLIS_PER_SECOND


def _time(token: RequestToken) -> int:
    return token.time_ms

"""Transactions: writes and checks of several items as one operation of the group commit.

An operation is evaluated at one point between all others, so there are no locks and no conflicts: what a transaction
decides cannot be overtaken before it is carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from broker.model.errors import (
    ConditionalCheckFailedError,
    HeadraceError,
    IdempotentParameterMismatchError,
    ProvisionedThroughputExceededError,
    ThrottlingError,
    TransactionCanceledError,
    ValidationError,
)
from broker.storage import layout
from broker.storage.rocks import Family
from broker.tables.capacity import Consumption, by_table, read_units
from broker.tables.operations import consumption_of, replace_item

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.storage.commit import Group
    from broker.storage.rocks import Store
    from broker.tables.capacity import CapacityMetering
    from broker.tables.operations import Decision, Write

# How long a request token stands for its request, after that was carried out.
TOKEN_SECONDS: Final = 10 * 60
# So many are kept on disk, less than 100 bytes each, for at most twice that long: more than a node can carry out.
# Beyond it transactions with a token are told to come again.
TOKENS_MAX: Final = 10_000_000

_MILLIS_PER_SECOND: Final = 1000
_RETRY_AFTER_MS: Final = 1_000


class RequestToken(NamedTuple):
    """What a client calls a request, so that sending it twice has the effect of once."""

    name: str
    # Of the request's content.
    digest: bytes


class RequestTokens:
    """The tokens of the last minutes, durable with what they stand for.

    They are on disk alone, by generation: all tokens of ten minutes. A token is looked for in this generation and the
    one before, and what is older goes at once, by one range. So neither memory nor time grows with their number.
    """

    def __init__(self, store: Store) -> None:
        # How many there are, by generation.
        self._counts = {
            layout.counted_generation(key): layout.decode_token_count(value)
            for key, value in store.scan(Family.CATALOG, layout.TOKEN_COUNTS_PREFIX, layout.TOKEN_COUNTS_END)
        }

    @property
    def count(self) -> int:
        """How many are kept."""
        return sum(self._counts.values())

    def plan_check(self, group: Group, token: RequestToken) -> bool:
        """Whether the request of a token was carried out before. Raises IdempotentParameterMismatchError.

        Raises ThrottlingError if there is no room for one more.
        """
        self._drop_old(group)
        generation = _generation(group)
        for each in (generation, generation - 1):
            known = group.get(Family.CATALOG, layout.token_key(each, token.name))
            if known is None:
                continue
            time_ms, digest = layout.decode_token(known)
            if time_ms <= group.now_ms - TOKEN_SECONDS * _MILLIS_PER_SECOND:
                continue
            if digest != token.digest:
                raise IdempotentParameterMismatchError(
                    "The request uses the same client token as a previous, but non-identical request",
                    field="client_request_token",
                )
            return True
        if self.count >= TOKENS_MAX:
            raise ThrottlingError(
                f"{TOKENS_MAX} transactions with a token were carried out lately, the limit",
                retry_after_ms=_RETRY_AFTER_MS,
                limit=TOKENS_MAX,
            )
        return False

    def plan_note(self, group: Group, token: RequestToken) -> None:
        """Notes that the request of a token is carried out."""
        generation = _generation(group)
        group.put(
            Family.CATALOG, layout.token_key(generation, token.name), layout.encode_token(group.now_ms, token.digest)
        )
        count = self._counts[generation] = self._counts.get(generation, 0) + 1
        group.put(Family.CATALOG, layout.token_count_key(generation), layout.encode_token_count(count))

    def _drop_old(self, group: Group) -> None:
        oldest = _generation(group) - 1
        old = [generation for generation in self._counts if generation < oldest]
        if old:
            group.delete_range(Family.CATALOG, layout.TOKENS_PREFIX, layout.token_key(oldest, ""))
        for generation in old:
            del self._counts[generation]
            group.put(Family.CATALOG, layout.token_count_key(generation), None)


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

    @property
    def grows(self) -> bool:
        """Whether one of the writes does."""
        return any(write.grows for write in self._writes)

    def plan(self, group: Group) -> list[Consumption]:
        """Carries the transaction out; returns what it has consumed, by table.

        Raises TransactionCanceledError with a cause for each write that is refused, IdempotentParameterMismatchError,
        ResourceNotFoundError, ThrottlingError.
        """
        for write in self._writes:
            write.table.check_exists()
        if self._token is not None and self._tokens.plan_check(group, self._token):
            return self._consume(_looked_at(group, write) for write in self._writes)
        decisions: list[Decision | None] = []
        causes: list[HeadraceError | None] = []
        for write in self._writes:
            decision, cause = self._decide(group, write)
            decisions.append(decision)
            causes.append(cause)
        if any(cause is not None for cause in causes):
            consumed = self._consume(map(_consumed_in_vain, self._writes, decisions, causes))
            raise TransactionCanceledError(causes, consumed)
        if self._token is not None:
            self._tokens.plan_note(group, self._token)
        return self._consume(
            self._carry_out(group, write, decision)
            for write, decision in zip(self._writes, decisions, strict=True)
            if decision is not None
        )

    def _decide(self, group: Group, write: Write) -> tuple[Decision | None, HeadraceError | None]:
        """What a write is to make of its item, or why it cannot; changes nothing."""
        try:
            self._metering.admit_write(write.table.definition)
            return write.decide(group), None
        except ConditionalCheckFailedError as error:
            error.consumption = consumption_of(write.table, error.item, None, (), transactional=True)
            write.note_failed(error)
            return None, error
        except (ValidationError, ProvisionedThroughputExceededError, ThrottlingError) as error:
            return None, error

    def _carry_out(self, group: Group, write: Write, decision: Decision) -> Consumption:
        old, new = decision
        changes = replace_item(group, write.table, write.key, old, new)
        return consumption_of(write.table, None if old is None else old.item, new, changes, transactional=True)

    def _consume(self, consumptions: Iterable[Consumption]) -> list[Consumption]:
        consumed = by_table(consumptions)
        for consumption in consumed:
            self._metering.consume(consumption)
        return consumed


def _consumed_in_vain(write: Write, decision: Decision | None, cause: HeadraceError | None) -> Consumption:
    """What a write costs whose transaction is cancelled."""
    if isinstance(cause, ConditionalCheckFailedError):
        consumption: Consumption = cause.consumption
        return consumption
    if isinstance(cause, ProvisionedThroughputExceededError | ThrottlingError):
        return Consumption(write.table.definition)
    old, new = (None, None) if decision is None else decision
    return consumption_of(write.table, None if old is None else old.item, new, (), transactional=True)


def _looked_at(group: Group, write: Write) -> Consumption:
    """What a write costs whose request was carried out before."""
    item = group.get_item(write.key.stored)
    consumption = Consumption(write.table.definition)
    size_bytes = 0 if item is None else item.item.size_bytes
    consumption.read(read_units(size_bytes, consistent=True, transactional=True))
    return consumption


def _generation(group: Group) -> int:
    # There is one before each.
    return 1 + group.now_ms // (TOKEN_SECONDS * _MILLIS_PER_SECOND)

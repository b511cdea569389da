"""Which member of a group should hold which source. Pure.

Sticky and incremental: who holds something keeps it, unless that is more than its share; so one member's exit moves
only what it held, and one member's arrival moves at most that member's share.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Member = TypeVar("Member")


class AssignmentMode(StrEnum):
    """How the sources of a group are given to its members."""

    # Evenly over all members.
    SHARED = "SHARED"
    # All to the member that has been there longest.
    EXCLUSIVE = "EXCLUSIVE"


def assign(
    mode: AssignmentMode,
    ready: Sequence[str],
    held: Mapping[str, Member],
    members: Sequence[Member],
    preferred: Mapping[str, Collection[Member]],
) -> dict[str, Member]:
    """The member that should hold each ready source; none does if there are no members.

    `ready` has parents before children, `held` who holds what now, the oldest lease first, `members` those that may be
    given something, in the order of joining, and `preferred` for each source those that are chosen among equals. Who
    holds something and is not among the members keeps it until it leaves.
    """
    wanted = dict.fromkeys(ready)
    kept = {source: member for source, member in held.items() if source in wanted}
    if not members:
        return kept
    if mode is AssignmentMode.EXCLUSIVE:
        return dict.fromkeys(ready, members[0])
    shares: dict[Member, list[str]] = {member: [] for member in members}
    targets: dict[str, Member] = {}
    for source, member in kept.items():
        if member in shares:
            shares[member].append(source)
        else:
            targets[source] = member
    quota, rest = divmod(len(wanted) - len(targets), len(members))
    # Those that hold most keep the odd ones, so that nothing moves merely to change places.
    for rank, member in enumerate(sorted(members, key=lambda member: -len(shares[member]))):
        del shares[member][quota + (rank < rest) :]
        targets.update(dict.fromkeys(shares[member], member))
    for source in wanted:
        if source not in targets:
            least = min(map(len, shares.values()))
            lightest = [member for member in members if len(shares[member]) == least]
            favourites = preferred.get(source, ())
            member = next((member for member in lightest if member in favourites), lightest[0])
            shares[member].append(source)
            targets[source] = member
    return targets

"""Checks of the rows that hold on every engine. They write nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

from relay.store.transaction import Transaction

MAX_PROBLEMS = 20
"""Problems that one check lists. It counts the rest."""

T = TypeVar("T")


@attrs.frozen
class Finding:
    """The result of one check: its subject with counts, and the problems."""

    verified: str
    problems: list[str]


def bounded(check: Callable[[T], Finding], connection: T) -> Finding:
    """Run a check, and return what it found with at most MAX_PROBLEMS problems."""
    found = check(connection)
    more = len(found.problems) - MAX_PROBLEMS
    if more <= 0:
        return found
    return attrs.evolve(found, problems=[*found.problems[:MAX_PROBLEMS], f"and {more} more like these"])


def offsets(connection: Transaction, *, wrong: str = "0") -> Finding:
    """Check that offsets are dense and unique, do not exceed the head, and belong to a channel.

    `wrong` is SQL that counts the numbers of a channel that are not integers, where an engine takes others.
    """
    channels = connection.execute("SELECT count(*) FROM channels").fetchone()[0]
    publications = 0
    problems = []
    query = (
        'SELECT p.channel_id, min(c.name), min(c."offset"), min(c.history_size), count(*), count(DISTINCT p."offset"), '  # noqa: S608
        f'min(p."offset"), max(p."offset"), {wrong} FROM publications AS p '
        "LEFT JOIN channels AS c ON c.id = p.channel_id GROUP BY p.channel_id"
    )
    for channel_id, name, head, history_size, count, distinct, first, last, odd in connection.execute(query):
        publications += count
        if name is None:
            problems.append(f"{count} publications belong to the missing channel number {channel_id}")
            continue
        if odd:
            problems.append(f"{name}: {odd} of its numbers are not integers")
            continue
        if distinct < count:
            problems.append(f"{name}: {count - distinct} offsets are duplicates")
        # If a channel keeps only its newest value, other types of publication have offsets but are not kept.
        if history_size > 1 and distinct < last - first + 1:
            problems.append(f"{name}: {last - first + 1 - distinct} offsets are missing between {first} and {last}")
        if first < 1:
            problems.append(f"{name}: the offset {first} is below 1")
        if last > head:
            problems.append(f"{name}: goes up to offset {last}, but its head says {head}: offsets would be used again")
        elif history_size > 1 and last < head:
            problems.append(f"{name}: its head says {head}, but its newest publication has offset {last}")
    return Finding(f"offsets: {publications} publications in {channels} channels, dense and unique in each", problems)


def rooms(connection: Transaction) -> Finding:
    """Check that each message and member belongs to a room, and that the room's counts are right."""
    total = connection.execute("SELECT count(*) FROM rooms").fetchone()[0]
    counts = []
    problems = []
    for table, column in (("messages", "message_count"), ("members", "member_count")):
        counts.append(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        orphans = connection.execute(
            f"SELECT room_id, count(*) FROM {table} WHERE room_id NOT IN (SELECT id FROM rooms) GROUP BY room_id"  # noqa: S608
        )
        problems += [f"{count} {table} belong to the missing room {room}" for room, count in orphans]
        wrong = connection.execute(
            f"SELECT id, said, there FROM (SELECT id, {column} AS said, "  # noqa: S608
            f"(SELECT count(*) FROM {table} WHERE room_id = rooms.id) AS there FROM rooms) AS counted WHERE said <> there"
        )
        problems += [f"the room {room} counts {said} {table}, but has {there}" for room, said, there in wrong]
    return Finding(
        f"rooms: {total} with {counts[0]} messages and {counts[1]} members, as many as each counts", problems
    )


def webhooks(connection: Transaction) -> Finding:
    """Check that each key counts its pending events and has one that is due, and that each span has a holder or an end."""
    total = connection.execute("SELECT count(*) FROM webhook_events").fetchone()[0]
    spans = connection.execute("SELECT count(*) FROM spans").fetchone()[0]
    problems = []
    counted = connection.execute(
        "SELECT k.endpoint, k.key, k.pending, count(e.id), count(e.next_at) FROM webhook_keys AS k "
        "LEFT JOIN webhook_events AS e ON e.endpoint = k.endpoint AND e.key = k.key AND e.dead_at IS NULL "
        "GROUP BY k.endpoint, k.key, k.pending"
    )
    for endpoint, key, said, there, due in counted:
        if said != there:
            problems.append(f"the webhook {endpoint} counts {said} pending events of {key}, but has {there}")
        elif there and due != 1:
            problems.append(f"the webhook {endpoint} has {there} pending events of {key}, and {due} of them are due")
    endless = connection.execute(
        "SELECT subject FROM spans WHERE ends_at IS NULL AND subject NOT IN (SELECT subject FROM span_holders)"
    )
    problems += [f"{subject} has no holder and no end" for (subject,) in endless]
    return Finding(f"webhooks: {total} events, and {spans} spans that last", problems)

"""Spans: things that begin, last while a holder has them, and end: a connection, a user's presence, an occupied channel.

A *holder* of a span is a connection or a node. A span begins with its first holder. It ends some time after its last one,
unless another holder came meanwhile. Its rows outlive the process, so an end is never lost. Functions of a transaction run
in the store's thread, and each gives the same result if it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from relay.store.transaction import Transaction

_SPAN = "subject, kind, key, id, data, began_at, reason, told"


@attrs.frozen
class Span:
    """One span."""

    subject: str
    """The thing: at most one span of it lasts at a time."""
    kind: str
    key: str
    """The key of its events. See `webhook_events`."""
    id: str
    """Unique: both events of the span carry it."""
    data: str
    """JSON that both events carry."""
    began_ms: int
    reason: str | None = None
    """Why its last holder let it go; None while it lasts."""
    told: str | None = None
    """The endpoints that were sent its beginning, with spaces between them; None: all, for a row of an older release."""

    def untold(self, endpoints: Iterable[str]) -> list[str]:
        """Return those of these endpoints that were not sent its beginning."""
        return [] if self.told is None else [one for one in endpoints if one not in self.told.split()]


def hold(
    connection: Transaction, span: Span, holder: str, node: str, *, endpoints: Sequence[str]
) -> tuple[Span, list[str]]:
    """Record a holder. Return the span that lasts, and those of `endpoints` that are to be sent its beginning now.

    The span begins with its first holder, and is then for all of them. Later it is for those alone that it did not have.
    """
    connection.execute(
        "INSERT INTO span_holders (subject, holder, node) VALUES (?, ?, ?) ON CONFLICT (subject, holder) DO NOTHING",
        (span.subject, holder, node),
    )
    row = connection.execute(
        "INSERT INTO spans (subject, kind, key, id, data, began_at, told) VALUES (?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
        f"ON CONFLICT (subject) DO UPDATE SET ends_at = NULL, reason = NULL RETURNING {_SPAN}",
        (span.subject, span.kind, span.key, span.id, span.data, span.began_ms, " ".join(endpoints)),
    ).fetchone()
    lasting = Span(*row)
    if lasting.id == span.id:
        return lasting, list(endpoints)
    untold = lasting.untold(endpoints)
    if untold:
        told = " ".join([*(lasting.told or "").split(), *untold])
        connection.execute("UPDATE spans SET told = ? WHERE subject = ?", (told, span.subject))
    return lasting, untold


def release(connection: Transaction, subject: str, holder: str, *, ends_ms: int | None, reason: str) -> Span | None:
    """Forget a holder. If it was the last one, the span ends at `ends_ms`; with None it ends now, and is returned."""
    gone = connection.execute("DELETE FROM span_holders WHERE subject = ? AND holder = ?", (subject, holder)).rowcount
    if not gone or connection.execute("SELECT 1 FROM span_holders WHERE subject = ? LIMIT 1", (subject,)).fetchone():
        return None
    if ends_ms is not None:
        connection.execute("UPDATE spans SET ends_at = ?, reason = ? WHERE subject = ?", (ends_ms, reason, subject))
        return None
    row = connection.execute(f"DELETE FROM spans WHERE subject = ? RETURNING {_SPAN}", (subject,)).fetchone()  # noqa: S608
    return None if row is None else attrs.evolve(Span(*row), reason=reason)


def take_ended(connection: Transaction, now_ms: int, maximum: int) -> list[Span]:
    """Delete the spans that have ended, at most `maximum`, and return them in the order in which they began."""
    rows = connection.execute(
        "DELETE FROM spans WHERE subject IN "  # noqa: S608
        f"(SELECT subject FROM spans WHERE ends_at IS NOT NULL AND ends_at <= ? ORDER BY ends_at LIMIT ?) RETURNING {_SPAN}",
        (now_ms, maximum),
    ).fetchall()
    return sorted((Span(*row) for row in rows), key=lambda span: span.began_ms)


def next_end(connection: Transaction) -> int | None:
    """Return when the next span ends, in Unix milliseconds; None if all have a holder."""
    [ends_ms] = connection.execute("SELECT min(ends_at) FROM spans WHERE ends_at IS NOT NULL").fetchone()
    return None if ends_ms is None else int(ends_ms)


def prolong(connection: Transaction, until_ms: int) -> None:
    """Let no span without a holder end before `until_ms`."""
    connection.execute("UPDATE spans SET ends_at = ? WHERE ends_at IS NOT NULL AND ends_at < ?", (until_ms, until_ms))


def holding_nodes(connection: Transaction) -> list[str]:
    """Return the nodes with a holder."""
    return [node for (node,) in connection.execute("SELECT DISTINCT node FROM span_holders ORDER BY node")]


def lose_node(
    connection: Transaction, node: str, *, ends_ms_of: Callable[[str], int | None], reason: str, maximum: int
) -> tuple[int, list[Span]]:
    """Forget holders of a node that is gone, at most `maximum`. Return how many, and the spans that ended.

    `ends_ms_of` returns when a span of a kind ends; None is at once.
    """
    rows = connection.execute(
        "SELECT h.subject, h.holder, s.kind FROM span_holders AS h JOIN spans AS s ON s.subject = h.subject "
        "WHERE h.node = ? ORDER BY h.subject, h.holder LIMIT ?",
        (node, maximum),
    ).fetchall()
    ended: list[Span] = []
    for subject, holder, kind in rows:
        span = release(connection, subject, holder, ends_ms=ends_ms_of(kind), reason=reason)
        if span is not None:
            ended.append(span)
    if not rows:
        connection.execute("DELETE FROM span_holders WHERE node = ?", (node,))  # without a span: of a damaged database
    return len(rows), sorted(ended, key=lambda span: span.began_ms)

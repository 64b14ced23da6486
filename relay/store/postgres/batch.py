"""A batch in PostgreSQL: its loads in one read-only transaction, its writes in another. Run in the store's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import outcome
import psycopg
from psycopg import errors

from relay.model.publication import Publication
from relay.store.engine import Entry, captured
from relay.store.notices import notify
from relay.store.postgres.append import Append, Appended, append_all
from relay.store.postgres.connection import PostgresTransaction

OPERATIONS_LOCK = 0x52454C42
"""Key of the advisory lock that a batch holds if it writes more than publications: such batches follow one another."""
MAX_TRIES = 3
"""How often a batch is run that PostgreSQL ended because of a deadlock with another node."""
FAILURES = (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege, errors.InFailedSqlTransaction)
"""Errors that psycopg calls the program's, and that are the database's here: it was changed by another program."""
OWN_ERRORS = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Errors about one operation's values or calls, except FAILURES; all others are the database's."""

UNCOMMITTED = (errors.DeadlockDetected, errors.SerializationFailure, errors.IdleInTransactionSessionTimeout)
"""Errors of COMMIT after which nothing was committed. PostgreSQL ends an idle session before it reads another statement."""

Announce = Callable[[Sequence[Publication]], Sequence[str]]
"""Makes the payloads that tell other nodes about publications. Called in the store's thread, before the commit."""


class LostAnswerError(psycopg.OperationalError):
    """The connection was lost after COMMIT was sent: it is not known whether the batch was committed."""


def is_failure(error: BaseException) -> bool:
    """Return whether an error is the database's, and not one operation's own."""
    return isinstance(error, psycopg.Error) and (isinstance(error, FAILURES) or not isinstance(error, OWN_ERRORS))


def run_loads(transaction: PostgresTransaction, loads: Sequence[Entry]) -> None:
    """Give every load its result. They see one state of the committed data.

    Raises:
        psycopg.Error: the database failed.
    """
    begun = False
    for entry in loads:
        if not begun:
            transaction.raw.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            begun = True
        entry.result = captured(entry.operation, transaction)
        if isinstance(entry.result, outcome.Error):
            if is_failure(entry.result.error):
                raise entry.result.error
            transaction.raw.execute(b"ROLLBACK")
            begun = False
    if begun:
        transaction.raw.execute(b"COMMIT")


def run_writes(transaction: PostgresTransaction, writes: Sequence[Entry], *, announce: Announce | None) -> None:
    """Run the writes in one transaction, and give every entry its result.

    Raises:
        psycopg.Error: the database failed, and nothing was committed.
        LostAnswerError: the database failed during the commit.
    """
    tries, merged = 0, True
    while True:
        tries += 1
        try:
            _run_once(transaction, writes, announce, merged=merged)
        except (errors.DeadlockDetected, errors.SerializationFailure):
            _roll_back(transaction)
            if tries >= MAX_TRIES:
                raise
        except psycopg.Error as error:
            _roll_back(transaction)
            if is_failure(error) or not merged:
                raise
            merged = False  # one caller's values are at fault: find out whose
        except BaseException:
            _roll_back(transaction)
            if not merged:
                raise
            merged = False
        else:
            return


def _run_once(
    transaction: PostgresTransaction,
    writes: Sequence[Entry],
    announce: Announce | None,
    *,
    merged: bool,
) -> None:
    appends = [entry for entry in writes if isinstance(entry.operation, Append)]
    transaction.raw.execute(_begin(writes))
    if len(appends) < len(writes) and len(appends) > 0:
        _lock_heads(transaction, appends)
    for group in _groups(writes, merged=merged):
        if len(group) > 1 or (merged and isinstance(group[0].operation, Append)):
            results = append_all(transaction, [entry.operation for entry in group])  # type: ignore[misc]
            for entry, result in zip(group, results, strict=True):
                entry.result = outcome.Value(result)
        else:
            _run_alone(transaction, group[0])
    if announce is not None:
        _announce(transaction, appends, announce)
    _commit(transaction)


def _begin(writes: Sequence[Entry]) -> bytes:
    statements = ["BEGIN"]
    if all(entry.volatile for entry in writes):
        statements.append("SET LOCAL synchronous_commit = off")
    if not all(isinstance(entry.operation, Append) and not entry.operation.prepares for entry in writes):
        statements.append(f"SELECT pg_advisory_xact_lock({OPERATIONS_LOCK})")
    return ";".join(statements).encode()


def _lock_heads(transaction: PostgresTransaction, appends: Sequence[Entry]) -> None:
    """Lock the heads of every channel of the batch in one order, as drafts on both sides of an operation lock them twice."""
    names = sorted({draft.channel.text for entry in appends for draft in entry.operation.drafts})  # type: ignore[attr-defined]
    transaction.raw.execute("SELECT 1 FROM channels WHERE name = ANY(%s) ORDER BY name FOR UPDATE", (names,))


def _groups(writes: Sequence[Entry], *, merged: bool) -> Iterator[list[Entry]]:
    """Yield the writes in order, neighbouring drafts together."""
    group: list[Entry] = []
    for entry in writes:
        together = merged and isinstance(entry.operation, Append)
        if group and not (together and isinstance(group[-1].operation, Append)):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _run_alone(transaction: PostgresTransaction, entry: Entry) -> None:
    """Run one operation under a savepoint. Its error is its caller's, unless the database failed."""
    transaction.raw.execute(b"SAVEPOINT operation")
    entry.result = captured(entry.operation, transaction)
    if isinstance(entry.result, outcome.Error):
        if is_failure(entry.result.error):
            raise entry.result.error
        transaction.raw.execute(b"ROLLBACK TO operation; RELEASE operation")
    else:
        transaction.raw.execute(b"RELEASE operation")


def _announce(transaction: PostgresTransaction, appends: Sequence[Entry], announce: Announce) -> None:
    publications = [
        publication
        for entry in appends
        if isinstance(entry.result, outcome.Value)
        for publication in _appended(entry.result.value).publications
    ]
    if publications and (payloads := announce(publications)):
        notify(transaction, payloads)


def _appended(result: object) -> Appended:
    assert isinstance(result, Appended)
    return result


def _commit(transaction: PostgresTransaction) -> None:
    try:
        status = transaction.raw.execute(b"COMMIT").statusmessage
    except UNCOMMITTED:
        raise
    except psycopg.Error as error:
        raise LostAnswerError(str(error)) from error
    if status != "COMMIT":
        # PostgreSQL answers so, and with no error, if a statement failed before.
        raise psycopg.InternalError("the transaction was rolled back")


def _roll_back(transaction: PostgresTransaction) -> None:
    if not transaction.raw.closed:
        with suppress(psycopg.Error):
            transaction.raw.execute(b"ROLLBACK")

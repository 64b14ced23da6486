"""Values for Schemathesis that follow rules which JSON Schema cannot express. Schemathesis loads this module."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

PRINTABLE = st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S"))

schemathesis.openapi.format("channel", st.sampled_from(["orders:1", "orders:2", "orders:a b"]))
schemathesis.openapi.format("webhook", st.sampled_from(["backend", "backend", "other"]))
schemathesis.openapi.format("date-time", st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat))
schemathesis.openapi.format("user-id", st.text(PRINTABLE, min_size=1, max_size=20))


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Return whether a case says something about Relay.

    Schemathesis cannot check a format that it does not know, so it takes each text that it made without the format for a
    wrong one. If the text breaks no other rule, Relay may accept it: most texts are ids of users.
    """
    mutations = getattr(case.meta.phase.data, "mutations", ())
    return not mutations or any(one.channel == "value" or one.keywords != ("format",) for one in mutations)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Return a body without integers of more than 64 bits, which Relay refuses, and JSON Schema cannot exclude in data."""
    return bounded(body)


def bounded(value: Any) -> Any:
    """Return a value whose integers have at most 64 bits."""
    if isinstance(value, dict):
        return {key: bounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [bounded(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(2**63), min(value, 2**64 - 1))
    return value

"""Random histories of the stored events against a list: order for each key, no loss, holes only where events were given up."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.store import webhook_events
from relay.store.sqlite.migrations import migrate
from relay.store.verification import webhooks
from relay.store.webhook_events import Delivery, Event

KEYS = ("a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)),
        st.tuples(st.just("claim"), st.integers(1, 3)),
        st.tuples(st.sampled_from(("accept", "fail", "bury", "forget")), st.integers(0, 5)),
        st.tuples(st.sampled_from(("crash", "replay", "wait")), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_histories(steps: list[tuple[str, list[str] | int]]) -> None:
    """Whatever is accepted, fails, dies, is replayed or is lost with a process, the order of each key holds."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        now = 0
        numbers: dict[str, int] = defaultdict(int)
        accepted: dict[str, list[int]] = defaultdict(list)
        buried: set[tuple[str, int]] = set()
        replayed: set[tuple[str, int]] = set()
        under_way: list[Delivery] = []
        for step, argument in steps:
            now += 1
            if isinstance(argument, list):
                events = []
                for key in argument:
                    numbers[key] += 1
                    events.append(Event("e", key, "t", now, json.dumps({"n": numbers[key]})))
                webhook_events.append(connection, events, now)
            elif step == "claim":
                under_way += webhook_events.claim(
                    connection, "e", node="n", now_ms=now, until_ms=now + 50, maximum=argument
                )
            elif step in ("accept", "fail", "bury", "forget") and under_way:
                one = under_way.pop(argument % len(under_way))
                if step == "accept":
                    webhook_events.delivered(connection, one.id, now)
                    accepted[one.key].append(one.seq)
                elif step == "fail":
                    webhook_events.failed(connection, one.id, next_ms=now + 5, status=500, error="x")
                elif step == "bury":
                    webhook_events.bury(connection, one.id, now_ms=now, status=500, error="x")
                    buried.add((one.key, one.seq))
            elif step == "crash":
                under_way.clear()
                webhook_events.free_claims(connection, "next", now)
            elif step == "replay":
                webhook_events.replay(connection, "e", event_id=None, since_ms=0, now_ms=now, maximum=100)
                replayed |= buried
            elif step == "wait":
                now += 100
                under_way.clear()  # their claims have ended
            assert webhooks(connection).problems == []
        while rest := webhook_events.claim(
            connection, "e", node="n", now_ms=now + 1000, until_ms=now + 2000, maximum=1
        ):
            webhook_events.delivered(connection, rest[0].id, now)
            accepted[rest[0].key].append(rest[0].seq)
            now += 1000
        dead = {(one.key, one.seq) for one in webhook_events.page(connection, "e", dead=True, after=0, limit=1000)}
        for key, number in numbers.items():
            in_order = [seq for seq in accepted[key] if (key, seq) not in replayed]
            assert in_order == sorted(in_order)
            assert len(set(accepted[key])) == len(accepted[key])
            assert set(accepted[key]) | {seq for other, seq in dead if other == key} == set(range(1, number + 1))

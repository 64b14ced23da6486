"""`GET /metrics`: the server's metrics in Prometheus' text format, for admins and for the configured addresses.

Other modules count, in plain integers. Each server has its own registry, which reads them when it is scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

import attrs
import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from quart import Blueprint, Request, Response, request

from relay.admission.addresses import TrustedProxies
from relay.admission.rate_limits import ConnectionCounter
from relay.api.authentication import address_of, admin_of
from relay.api.local import is_local, of_other_site
from relay.api.operation import OPERATOR, describe
from relay.broker.broker import Broker
from relay.cluster.cluster import Cluster
from relay.core import Core
from relay.ground.histogram import Histogram
from relay.sessions.flusher import Flusher
from relay.store.database import Database

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@attrs.frozen
class Sources:
    """The parts of a server that a scrape reads."""

    core: Core
    broker: Broker
    database: Database
    flusher: Flusher
    outbox_usage: Callable[[], tuple[Mapping[tuple[str, str], int], int]]
    """Return the queued bytes of sessions, by dialect and transport, and the number of blocked outboxes."""
    connections: ConnectionCounter
    """The open TCP connections."""
    cluster: Cluster | None = None
    """This node, if several share the database."""


def blueprint(sources: Sources) -> Blueprint:
    """Return the route. It also counts every HTTP response."""
    core = sources.core
    allowed = TrustedProxies(core.config.server.metrics_allowed_addresses)
    registry, of_process = CollectorRegistry(), CollectorRegistry()
    registry.register(RelayCollector(sources))
    ProcessCollector(registry=of_process)
    GCCollector(registry=of_process)
    PlatformCollector(registry=of_process)
    routes = Blueprint("metrics", __name__)

    @routes.get(PATH)
    @describe("Return the metrics for Prometheus.", OPERATOR, media={"text/plain": str})
    async def metrics() -> Response:
        if not may_read_without_credentials(core, request, allowed):
            await admin_of(core, request)
        # In a thread, because the kernel takes too long to list ten thousand open files.
        process = await trio.to_thread.run_sync(generate_latest, of_process)
        body = generate_latest(registry) + process
        return Response(body, content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    @routes.after_app_request
    async def count(response: Response) -> Response:
        core.metrics.responses[response.status_code] += 1
        return response

    return routes


def may_read_without_credentials(core: Core, request: Request, allowed: TrustedProxies) -> bool:
    """Return whether a request certainly comes from an address that may read metrics.

    An address of this machine counts only if the request is local, and no web page in a browser here makes it.
    """
    address = ip_address(address_of(core, request))
    if address not in allowed:
        return False
    if not address.is_loopback:
        return True
    of_page = "Origin" in request.headers or of_other_site(request)
    return not of_page and is_local(core, request)


class RelayCollector(Collector):
    """Collects Relay's own metrics. A scrape visits each session once (0.3 µs), and nothing else one by one."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Return the present values."""
        yield from self._connections()
        yield from self._publications()
        yield from self._outboxes()
        yield from self._store()
        yield from self._hooks()
        yield from self._cluster()
        yield from self._webhooks()
        yield from self._memory()
        yield _histogram(
            "relay_loop_lag_seconds",
            "How much too late the event loop wakes a task, measured four times a second. Every client waits this "
            "long in addition.",
            self._sources.core.metrics.loop_lag,
        )

    def _connections(self) -> Iterator[Metric]:
        metrics = self._sources.core.metrics
        yield _gauge(
            "relay_connections",
            "TCP connections that are open, of HTTP and WebSocket.",
            self._sources.connections.count,
        )
        labels = ["dialect", "transport"]
        sessions = GaugeMetricFamily("relay_sessions", "Client sessions that are open.", labels=labels)
        opened = CounterMetricFamily("relay_sessions_opened", "Client sessions that were opened.", labels=labels)
        closed = CounterMetricFamily(
            "relay_sessions_closed",
            "Client sessions that ended, by reason: closed_by_client, or the server's reason (idle, too_slow, "
            "unauthorized ...).",
            labels=[*labels, "reason"],
        )
        for key, counts in metrics.sessions.items():
            sessions.add_metric(key, counts.open)
            opened.add_metric(key, counts.opened)
            for reason, number in counts.closed.items():
                closed.add_metric([*key, reason], number)
        yield from (sessions, opened, closed)
        taken = GaugeMetricFamily("relay_places_taken", "Places for sessions that are taken.", labels=["dialect"])
        places = GaugeMetricFamily(
            "relay_places",
            "Places for sessions. When all are taken, new sessions are refused with 503.",
            labels=["dialect"],
        )
        for dialect, counters in metrics.places.items():
            taken.add_metric([dialect], sum(counter.count for counter in counters))
            places.add_metric([dialect], sum(counter.maximum for counter in counters))
        yield from (taken, places)
        yield _counter(
            "relay_handshakes_refused",
            "Handshakes of sessions over any transport that were refused, by reason.",
            "reason",
            {code.value: number for code, number in metrics.refused.items()},
        )
        yield _counter("relay_http_responses", "HTTP responses by status.", "status", metrics.responses)
        yield _counter(
            "relay_reloads",
            "Reloads of the configuration: taken, or refused because it has mistakes.",
            "outcome",
            metrics.reloads,
        )

    def _publications(self) -> Iterator[Metric]:
        core, broker, flusher = self._sources.core, self._sources.broker, self._sources.flusher
        counts = {row.name: broker.publications.get(row.name, 0) for row in core.namespaces}
        yield _counter("relay_publications", "Publications by namespace, each counted once.", "kind", counts)
        yield _counter(
            "relay_deliveries",
            "Publications and signals (typing, presence) delivered to subscribed sessions, each counted once per "
            "session.",
            "dialect",
            core.metrics.by_dialect(broker.deliveries),
        )
        compressions = core.metrics.compressions.items()
        yield _counter(
            "relay_compression_input_bytes",
            "Bytes of publications that were compressed, each counted once.",
            "dialect",
            {name: compression.taken_bytes for name, compression in compressions},
        )
        yield _counter(
            "relay_compression_output_bytes",
            "Bytes that they were compressed to.",
            "dialect",
            {name: compression.made_bytes for name, compression in compressions},
        )
        dropped = {
            "replaced": flusher.replaced_frames,
            "too_slow": flusher.overflowed_frames,
            "connection_lost": flusher.lost_frames,
        }
        yield _counter(
            "relay_frames_dropped",
            "Frames that were never sent: replaced by a newer price, too_slow (the client was disconnected), "
            "connection_lost.",
            "reason",
            dropped,
        )

    def _outboxes(self) -> Iterator[Metric]:
        metrics = self._sources.core.metrics
        waiting, blocked = self._sources.outbox_usage()
        queued = GaugeMetricFamily(
            "relay_outbox_bytes", "Bytes that are queued for clients.", labels=["dialect", "transport"]
        )
        for dialect, transport in metrics.sessions:
            other = metrics.queued_bytes.get((dialect, transport))
            queued.add_metric([dialect, transport], waiting.get((dialect, transport), 0) if other is None else other())
        yield queued
        yield _gauge("relay_outboxes_blocked", "Sessions whose client does not read fast enough now.", blocked)

    def _store(self) -> Iterator[Metric]:
        database, broker = self._sources.database, self._sources.broker
        yield _histogram(
            "relay_commit_seconds",
            "Duration of commits to the database. Publications that are queued at the same time share one commit.",
            database.commits,
        )
        yield _gauge("relay_database_writable", "1 while the database can be written, else 0.", int(database.healthy))
        queue = GaugeMetricFamily(
            "relay_store_queue", "Operations that are queued for the database.", labels=["operation"]
        )
        queue.add_metric(["write"], database.waiting_writes)
        queue.add_metric(["read"], database.waiting_reads)
        yield queue
        yield _gauge(
            "relay_write_behind_channels",
            "Channels with publications that were delivered but are not yet in the database.",
            broker.channels.dirty_count,
        )

    def _hooks(self) -> Iterator[Metric]:
        hooks = self._sources.core.hooks
        questions = CounterMetricFamily(
            "relay_hook_questions",
            "Questions to backend hooks, by outcome: allowed, refused, cached, unreachable (no clear answer in time), busy.",
            labels=["hook", "kind", "outcome"],
        )
        pending = GaugeMetricFamily("relay_hook_pending", "Questions that wait for a backend hook.", labels=["hook"])
        seconds = HistogramMetricFamily(
            "relay_hook_seconds",
            "Duration of questions to backend hooks, the wait for a free connection included.",
            labels=["hook"],
        )
        for name, hook in hooks.items():
            for (kind, outcome), number in hook.outcomes.items():
                questions.add_metric([name, kind.value, outcome], number)
            pending.add_metric([name], hook.pending)
            seconds.add_metric([name], _buckets(hook.durations), hook.durations.sum)
        yield from (questions, pending, seconds)

    def _cluster(self) -> Iterator[Metric]:
        cluster = self._sources.cluster
        if cluster is None:
            return
        bus, delivery = cluster.bus, cluster.delivery
        yield _gauge(
            "relay_nodes", "Nodes of the database whose lease holds, this one included.", len(cluster.node.names)
        )
        yield _gauge("relay_bus_connected", "1 while the node hears the other nodes, else 0.", int(bus.connected))
        yield _histogram(
            "relay_bus_lag_seconds",
            "Time from before a commit of this node until the notification of it came back, heartbeats included.",
            bus.lag,
        )
        yield _total("relay_bus_notifications", "Notifications received, the node's own included.", bus.received)
        yield _total(
            "relay_bus_reconnects", "Times the listening connection was lost and opened again.", bus.reconnects
        )
        yield _total("relay_bus_deliveries", "Publications of other nodes, delivered.", delivery.delivered)
        yield _total(
            "relay_bus_catch_ups", "Times the database was asked for publications that were missed.", delivery.catch_ups
        )

    def _webhooks(self) -> Iterator[Metric]:
        webhooks = self._sources.core.webhooks
        if not webhooks.senders:
            return
        pending = GaugeMetricFamily(
            "relay_webhook_pending", "Events that wait to be sent, counted every five seconds.", labels=["webhook"]
        )
        oldest = GaugeMetricFamily(
            "relay_webhook_oldest_seconds", "Age of the oldest event that waits; 0 if none does.", labels=["webhook"]
        )
        dead = GaugeMetricFamily(
            "relay_webhook_dead", "Events that were given up and can be replayed.", labels=["webhook"]
        )
        stopped = GaugeMetricFamily(
            "relay_webhook_stopped", "1 while nothing is sent, because the receiver answered 410.", labels=["webhook"]
        )
        dropped = CounterMetricFamily(
            "relay_webhook_dropped", "Events that were never sent, because too many waited.", labels=["webhook"]
        )
        attempts = CounterMetricFamily(
            "relay_webhook_attempts",
            "Requests by outcome: delivered, or why not (refused, timeout, connect ...).",
            labels=["webhook", "outcome"],
        )
        now_ms = self._sources.core.clock.now_ms()
        for name, sender in webhooks.senders.items():
            count = webhooks.counts.get(name)
            since_ms = None if count is None else count.oldest_ms
            pending.add_metric([name], 0 if count is None else count.pending)
            oldest.add_metric([name], 0 if since_ms is None else max(now_ms - since_ms, 0) / 1000)
            dead.add_metric([name], 0 if count is None else count.dead)
            stopped.add_metric([name], int(sender.is_stopped))
            dropped.add_metric([name], webhooks.dropped[name])
            for outcome, number in sender.attempts.items():
                attempts.add_metric([name, outcome], number)
        yield from (pending, oldest, dead, stopped, dropped, attempts)
        yield _histogram("relay_webhook_seconds", "Duration of requests to receivers.", webhooks.seconds)

    def _memory(self) -> Iterator[Metric]:
        core, broker = self._sources.core, self._sources.broker
        yield _gauge("relay_tasks", "Trio tasks that exist.", trio.lowlevel.current_statistics().tasks_living)
        yield _gauge(
            "relay_channels",
            "Channels in memory. A channel without subscribers is dropped after about a minute.",
            len(broker.channels),
        )
        yield _gauge("relay_subscriptions", "Subscriptions of all sessions.", broker.subscription_count)
        yield _gauge(
            "relay_users_present",
            "Users with an authenticated session, or in the grace period after their last one.",
            core.presence.user_count,
        )
        tables: dict[str, int] = {
            **{name: len(limit) for name, limit in core.limits.tables().items()},
            "idempotency_keys": len(broker.idempotency),
            "pending_subscriptions": len(broker.pending),
            "resumed_frames": len(broker.resumed_frames),
            "presence_rooms": core.presence.room_count,
            "presence_channels": core.presence.attendance.channel_count,
            "presence_leaving": core.presence.attendance.leaving_count,
            "api_keys": core.auth.keys.cached_count,
            "api_keys_in_use": core.auth.keys.watched_count,
            "user_profiles": core.auth.users.remembered_count,
            "channel_names": core.publishing.cached_count,
            "timers": len(core.timers),
            "hook_answers": sum(hook.cached_count for hook in core.hooks.values()),
            **{name: count() for name, count in core.metrics.tables.items()},
        }
        entries = GaugeMetricFamily("relay_table_entries", "Entries of tables in memory.", labels=["table"])
        for table, number in tables.items():
            entries.add_metric([table], number)
        yield entries


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _total(name: str, documentation: str, value: int) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _counter(name: str, documentation: str, label: str, counts: Mapping[str, int] | Mapping[int, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, number in counts.items():
        family.add_metric([str(value)], number)
    return family


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, documentation, buckets=_buckets(histogram), sum_value=histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, number in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += number
        buckets.append((bound, total))
    return buckets

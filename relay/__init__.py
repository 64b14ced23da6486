"""Relay: a realtime server in one process, on one port, with one configuration file and one SQLite file or PostgreSQL.

    cli -> server -> dialects -> api -> core -> access -> chat -> auth, ops -> hooks -> cluster -> store
        -> broker, transports -> sessions -> model, admission -> config -> ground

Arrows point one way: a package imports packages to its right alone. `tests/test_architecture.py` holds that.

cli         the commands                        store       one writer with group commit; SQLite or PostgreSQL
server      builds, starts and stops the parts  broker      channels in memory: publish, subscribe, resume, presence
dialects    the client APIs, a folder each      transports  listener, TLS, HTTP/1.1, WebSocket, streams
api         HTTP for backends and operators     sessions    a connected client: session, outbox, flusher, heartbeat
core        the parts that dialects and api use model       values: principal, namespaces, grants, publication
access      rights to publish and subscribe     admission   which clients may connect, and how often
chat        rooms, messages, notifications      config      relay.toml, environment and flags as one tree
auth, ops   credentials; metrics, janitor       ground      errors, clock, timers, logs, strict JSON, histogram
hooks       requests to backends, webhooks      bench       `relay bench`, a client like any other
cluster     several nodes over one PostgreSQL   client      the clients in Python and JavaScript; docs: the handbook

`bench`, `client` and `docs` import nothing of the others.

A publication: a route of `api` or a dialect -> access.publishing, chat -> broker
    -> store (durable: committed first) -> channel -> flusher -> socket.
A connection: transports.listener -> server.session_server -> sessions.session -> a dialect -> access.subscribing -> broker.
Rules: a `def` is never a checkpoint. The broker names no dialect and no store. Every wait and buffer has a bound.
The handbook has the rest: `relay docs architecture`.
"""

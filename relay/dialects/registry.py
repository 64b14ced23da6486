"""The client APIs that Relay speaks. A further one is a folder here and a line in this tuple."""

from __future__ import annotations

from relay.dialects.base import Factory
from relay.dialects.channels.dialect import open_channels
from relay.dialects.feeds.dialect import open_feeds
from relay.dialects.live.dialect import open_live
from relay.dialects.socketio.dialect import open_socketio
from relay.dialects.sse.dialect import open_sse

DIALECTS: tuple[Factory, ...] = (open_live, open_channels, open_feeds, open_socketio, open_sse)

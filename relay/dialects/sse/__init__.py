"""The `sse` dialect: event streams at `/v1/sse`, for EventSource, curl and scripts. Clients only receive."""

"""The `live` dialect: chat rooms, presence, notifications and prices, over `/v1/live` and REST."""

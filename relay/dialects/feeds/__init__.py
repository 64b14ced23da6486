"""The `feeds` dialect: three public feeds under `/api/v1/ws/`, of trades, charts and asset prices. No authentication."""

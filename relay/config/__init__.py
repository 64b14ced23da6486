"""The configuration: relay.toml, the environment and flags, as one frozen tree of settings.

What there is to set is in `tree` and `dialects`, how it is read in `loading`, the commented file in `example`. Nothing
else of Relay is imported: whoever needs settings is handed their section.
"""

from relay.config.dialects import ChannelsDialectConfig, DialectsConfig, FeedsConfig, LiveConfig, SocketioConfig
from relay.config.example import render_example
from relay.config.loading import ConfigError, Problem, find_config_file, load_config
from relay.config.tree import (
    AuthConfig,
    ChannelsConfig,
    Config,
    LimitsConfig,
    LogConfig,
    ServerConfig,
    StoreConfig,
)

__all__ = [
    "AuthConfig",
    "ChannelsConfig",
    "ChannelsDialectConfig",
    "Config",
    "ConfigError",
    "DialectsConfig",
    "FeedsConfig",
    "LimitsConfig",
    "LiveConfig",
    "LogConfig",
    "Problem",
    "ServerConfig",
    "SocketioConfig",
    "StoreConfig",
    "find_config_file",
    "load_config",
    "render_example",
]

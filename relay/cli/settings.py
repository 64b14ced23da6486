"""The option --config, and the configuration that a command gets from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from relay.config.loading import ConfigError, load_config
from relay.config.tree import Config

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file. Default: the file in RELAY_CONFIG, else ./relay.toml if it exists, else none.",
)


def load(config_file: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """Load the configuration.

    Raises:
        ClickException: the configuration has mistakes; the message lists all of them.
    """
    try:
        return load_config(config_file, os.environ, overrides or {})
    except ConfigError as error:
        how_many = "a problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
        lines = [f"the configuration has {how_many}:", *(f"  {problem}" for problem in error.problems)]
        raise click.ClickException("\n".join(lines)) from None

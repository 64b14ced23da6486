"""Takes up a changed configuration without a restart: all of it or nothing, and no connection is dropped."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from relay.config.loading import ConfigError, Problem
from relay.config.reloading import Reloaded, Source, merge
from relay.config.tree import Config
from relay.core import Core
from relay.ground import logs
from relay.model.namespaces import namespaces_of
from relay.transports.certificates import Certificates

LOAD_TIMEOUT = 10.0
"""Seconds for reading the file. A network file system may hang for ever."""
MAX_SHOWN = 50
"""Mistakes of one file that are logged."""

TakeUp = Callable[[Config], None]
"""Takes up the configuration in force, in a part that keeps values of it. Called synchronously; must not raise."""

log = logs.get("relay")


class Reloader:
    """Reloads one server. Reloads take turns."""

    def __init__(
        self, core: Core, source: Source | None, parts: Sequence[TakeUp], certificates: Certificates | None = None
    ) -> None:
        """`source` is None for a server that no file describes. `parts` take up what the core does not hold."""
        self._core = core
        self._source = source
        self._parts = parts
        self._certificates = certificates
        self._lock = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)  # also if a thread hangs, and the reload was given up
        self.mistakes = 0
        """The number of mistakes that the last reload found."""

    @property
    def file(self) -> Path | None:
        """The file that is loaded, if there is one."""
        return None if self._source is None else self._source.file

    async def reload(self) -> Reloaded:
        """Load the configuration and the certificate again, take up the changes, and log the outcome.

        Subscriptions that the namespaces do not allow any more have ended when this returns. Cancelled while the file is
        read, nothing changed; later, all of it is taken up.

        Raises:
            ConfigError: the configuration has mistakes, which are logged, and nothing changed, also not the certificate.
        """
        async with self._lock:
            config = self._core.config if self._source is None else await self._load(self._source)
            with trio.CancelScope(shield=True):
                reloaded = await self._take_up(config)
                if self._certificates is not None:
                    await self._certificates.reload()
        return reloaded

    async def _load(self, source: Source) -> Config:
        try:
            with trio.fail_after(LOAD_TIMEOUT):
                config = await trio.to_thread.run_sync(source.load, abandon_on_cancel=True, limiter=self._one_thread)
        except ConfigError as error:
            self._refuse(error.problems)
            raise
        except trio.TooSlowError:
            problem = Problem("the configuration", f"could not be read within {LOAD_TIMEOUT:g} seconds")
        except Exception as error:
            error_id = str(uuid.uuid4())
            log.exception("cannot load the configuration", error, errorId=error_id)
            problem = Problem("the configuration", f"cannot be loaded (errorId {error_id} in the log)")
        else:
            self.mistakes = 0
            return config
        self._refuse([problem])
        raise ConfigError([problem])

    def _refuse(self, problems: Sequence[Problem]) -> None:
        self.mistakes = len(problems)
        self._core.metrics.reloads["refused"] += 1
        log.error("the configuration was not reloaded, because it has mistakes", mistakes=len(problems))
        for problem in problems[:MAX_SHOWN]:
            log.error("mistake in the configuration", setting=problem.key_path, problem=problem.message)

    async def _take_up(self, config: Config) -> Reloaded:
        core = self._core
        merged, outcome = merge(core.config, config)
        # One synchronous step: no task sees a part with old values beside one with new values.
        core.config = merged
        core.limits.take_up(merged.limits)
        core.origins.take_up(merged.server.allowed_origins)
        core.hooks.take_up(merged.hooks)
        core.connect_hook.take_up(merged.auth.connect_hook)
        waiting = core.namespaces.take_up(namespaces_of(merged))
        core.publishing.forget_channels()
        core.webhooks.take_up(merged.webhooks)
        for take_up in self._parts:
            take_up(merged)
        core.metrics.reloads["taken"] += 1
        reloaded = Reloaded([one for one in outcome.taken if one not in waiting], [*outcome.waiting, *waiting])
        log.info("configuration reloaded", changed=", ".join(reloaded.taken) or "nothing")
        if reloaded.waiting:
            log.warning("changes that need a restart", settings=", ".join(reloaded.waiting))
        await core.subscriptions.recheck_all()
        return reloaded

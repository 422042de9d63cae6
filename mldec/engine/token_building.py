"""The tokens of an experiment's images, computed before a run needs them, for `mldec cache build`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mldec.config import Config
from mldec.engine import config_checks, data_splits
from mldec.engine.display import Display
from mldec.engine.interrupt import stop_on_interrupt
from mldec.engine.stored_config import with_absolute_paths
from mldec.engine.token_cache import TokenCache
from mldec.engine.trainer import Trainer
from mldec.errors import ConfigError


@dataclass(frozen=True)
class BuiltTokens:
    """What was computed.

    Attributes:
        computed: how many images of one view each; those that an earlier command had computed are not among them.
        exit_code: 0, or that of the signal that stopped the command.
    """

    computed: int
    exit_code: int


def build_tokens(config: Config, display: Display) -> BuiltTokens:
    """Compute what a run of `config` with `cache.tokens=true` reads, in this process, and say where it lies.

    Raises ConfigError as such a run does, and where it would need several processes or another run first.
    """
    config = dataclasses.replace(config, cache=dataclasses.replace(config.cache, tokens=True))
    if config.runtime.devices > 1:
        raise ConfigError(f"runtime.devices={config.runtime.devices}: the cache is built by one process; leave it out")
    if config.init_from is not None and config.init_from.startswith("experiment:"):
        raise ConfigError(f"init_from={config.init_from}: train that first, by itself, and name its run directory")
    config_checks.check_config(config)
    config = with_absolute_paths(config)
    for sentence in config_checks.find_unused(config):
        display.say(f"warning: {sentence}")
    splits = data_splits.build_splits(config)
    trainer = Trainer(config, splits, display)
    tokens = TokenCache(config, splits, trainer.state.model, trainer.scorer)
    display.say(tokens.describe())
    with stop_on_interrupt() as stop:
        whole = tokens.fill(display.counted, lambda: stop.requested)
    return BuiltTokens(tokens.computed, 0 if whole else stop.exit_code)

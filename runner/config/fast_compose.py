"""Hydra's composition without Hydra's own section, which the runner never reads.

That section (its logging, its launcher, its output folder) is half of what Hydra composes. Where it is
named, and wherever leaving it out raises anything at all, Hydra composes everything, and what Hydra then
says is the answer: the shorter way is never the one that decides what is wrong.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.schema import CONF

_VERSION_BASE = "1.3"


def composed(overrides: Sequence[Any], searched: Sequence[Any] = ()) -> DictConfig:
    """The configuration of these parsed overrides; `searched` is `hydra.searchpath=…`, for more files."""
    if not any(override.is_hydra_override() for override in overrides):
        with suppress(Exception):  # a mistake, or an inside of Hydra's that another 1.3.x has otherwise
            return compose_fast(overrides, searched)
    return compose_by_hydra([override.input_line for override in (*overrides, *searched)])


def compose_by_hydra(words: Sequence[str]) -> DictConfig:
    """By Hydra's public API."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base=_VERSION_BASE):
        return compose("config", list(words))


def compose_fast(overrides: Sequence[Any], searched: Sequence[Any]) -> DictConfig:
    """As ConfigLoaderImpl.load_configuration of Hydra 1.3 does it, but for its own section."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.defaults_list import create_defaults_list
    from hydra._internal.utils import create_config_search_path
    from hydra.core.utils import setup_globals

    version.setbase(_VERSION_BASE)
    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    files = CachingConfigRepository(loader.repository)
    loader._process_config_searchpath("config", list(searched), files)
    chosen = create_defaults_list(files, "config", list(overrides), prepend_hydra=False, skip_missing=False)
    config = loader._compose_config_from_defaults_list(chosen.defaults, files)
    OmegaConf.set_struct(config, True)
    loader._apply_overrides_to_config(chosen.config_overrides, config)
    return config

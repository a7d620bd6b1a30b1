"""Hydra's composition without Hydra's own section, which the runner never reads.

That section (its logging, its launcher, its output folder) is half of what Hydra composes. Where it is
named, and wherever leaving it out raises anything at all, Hydra composes everything, and what Hydra then
says is the answer: the shorter way is never the one that decides what is wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config.schema import CONF

_VERSION_BASE = "1.3"


class QuickFolder(FileConfigSource):
    """A folder whose YAML libyaml reads, where PyYAML has it: ten times as quick as OmegaConf's loader."""

    @staticmethod
    def scheme() -> str:
        """How the search path names such a folder: quick:///home/me/conf."""
        return "quick"

    def load_config(self, config_path: str) -> ConfigResult:
        """As OmegaConf loads the file; what is no mapping, and every mistake, is OmegaConf's to answer."""
        with suppress(Exception):
            text = Path(self.path, self._normalize_file_name(config_path)).read_text(encoding="utf-8")
            plain = yaml_mapping(text)
            if plain is not None:
                header = ConfigSource._get_header_dict(text[:512])
                return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", plain, header)
        return super().load_config(config_path)


def yaml_mapping(text: str) -> DictConfig | None:
    """The mapping of a YAML text, with the types that OmegaConf gives; None for what is no mapping."""
    import yaml

    plain = yaml.load(text, Loader=_quick_loader())
    return OmegaConf.create(plain) if isinstance(plain, dict) else None


@cache
def _quick_loader() -> Any:
    """What OmegaConf loads with, on libyaml's parser; ImportError where PyYAML was built without."""
    from omegaconf._utils import get_yaml_loader
    from yaml import CSafeLoader, MappingNode

    class Loader(CSafeLoader):
        yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

        def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
            names = [name.value for name, _ in node.value if name.tag.endswith(":str")]
            if len(set(names)) < len(names):
                raise ValueError("a key is there twice")
            return super().construct_mapping(node, deep)

    return Loader


class GroupsOfFolder(QuickFolder):
    """A folder of one's own, but for the files on top: another program's config.yaml is none of ours."""

    @staticmethod
    def scheme() -> str:
        """How the search path names such a folder: groups:///home/me/conf."""
        return "groups"

    def is_config(self, config_path: str) -> bool:
        """Whether it has this file, `phase/phase1`."""
        return "/" in config_path and super().is_config(config_path)


class OwnFolder(SearchPathPlugin):
    """Lets Hydra look into `folder` before it looks into conf/."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for each search path that it makes."""
        if self.folder:
            search_path.prepend("--config-dir", f"{GroupsOfFolder.scheme()}://{self.folder}", anchor="main")


@cache
def _register() -> None:
    """Make them known to Hydra."""
    from hydra.core.plugins import Plugins

    for plugin in (QuickFolder, GroupsOfFolder, OwnFolder):
        Plugins.instance().register(plugin)


@contextmanager
def searched_first(folder: Path | None) -> Iterator[None]:
    """Files of this folder win over shipped ones of the same name. Hydra's own --config-dir comes last."""
    _register()
    OwnFolder.folder = folder
    try:
        yield
    finally:
        OwnFolder.folder = None


@dataclass(frozen=True)
class Composed:
    """A configuration, and the files it is made of, as Hydra names them: `phase/phase1`."""

    config: DictConfig
    files: tuple[str, ...]


def composed(overrides: Sequence[Any], config_dir: Path | None = None) -> Composed:
    """The configuration of these parsed overrides, with the files of --config-dir."""
    with searched_first(config_dir):
        if not any(override.is_hydra_override() for override in overrides):
            with suppress(Exception):  # a mistake, or an inside of Hydra's that another 1.3.x has otherwise
                return compose_fast(overrides)
        return compose_whole([override.input_line for override in overrides])


def compose_whole(words: Sequence[str]) -> Composed:
    """By Hydra's public API, and then without its own section."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base=_VERSION_BASE):
        config = compose("config", list(words), return_hydra_config=True)
    files = tuple(f"{group}/{choice}" for group, choice in config.hydra.runtime.choices.items() if choice)
    with open_dict(config):
        del config["hydra"]
    return Composed(config, files)


def compose_by_hydra(words: Sequence[str]) -> DictConfig:
    """The configuration alone."""
    return compose_whole(words).config


def compose_fast(overrides: Sequence[Any]) -> Composed:
    """As ConfigLoaderImpl.load_configuration of Hydra 1.3 does it, but for its own section."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.defaults_list import create_defaults_list
    from hydra._internal.utils import create_config_search_path
    from hydra.core.utils import setup_globals

    _register()
    version.setbase(_VERSION_BASE)
    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(f"{QuickFolder.scheme()}://{CONF}"))
    files = CachingConfigRepository(loader.repository)
    chosen = create_defaults_list(files, "config", list(overrides), prepend_hydra=False, skip_missing=False)
    config = loader._compose_config_from_defaults_list(chosen.defaults, files)
    OmegaConf.set_struct(config, True)
    loader._apply_overrides_to_config(chosen.config_overrides, config)
    return Composed(config, tuple(file.config_path for file in chosen.defaults if file.config_path))

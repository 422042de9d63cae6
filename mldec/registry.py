"""How a name finds its component.

Each group of the configuration has one `Registry`. A component registers a factory under the name that a config file
gives (`name: ml_decoder`), together with the dataclass that holds and checks its settings. Both stand in the
component's own module:

    @HEADS.register("gap", PoolingConfig)
    def build_gap(config: PoolingConfig, *, in_features: int, labels: LabelSpace) -> nn.Module: ...

Nothing is imported by a name that a config holds: modules of one's own register themselves when they are imported,
which only the command line can request (`plugins=[my_module]`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mldec.errors import ConfigError, suggest

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class Component:
    """A name, the dataclass of its settings, and the factory that turns such settings into an object."""

    name: str
    config_class: type
    build: Callable[..., Any]


class Registry:
    """The components of one config group, by name."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._components: dict[str, Component] = {}

    def register(self, name: str, config_class: type) -> Callable[[Factory], Factory]:
        """Decorate the factory of component `name`. Raises ValueError if the name is taken."""

        def keep(factory: Factory) -> Factory:
            if name in self._components:
                raise ValueError(f"{self.group} {name!r} is registered already")
            self._components[name] = Component(name, config_class, factory)
            return factory

        return keep

    def __getitem__(self, name: str) -> Component:
        if name not in self._components:
            raise ConfigError(
                f"{self.group}.name={name}: no such {self.group}; {suggest(name, self._components)}; "
                "a component of your own needs plugins=[its_module]"
            )
        return self._components[name]

    def __contains__(self, name: object) -> bool:
        return name in self._components

    def settings(self) -> set[str]:
        """All settings that any component of the group has."""
        return {field.name for component in self._components.values() for field in fields(component.config_class)}

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._components)


DATASETS = Registry("dataset")
BACKBONES = Registry("backbone")
HEADS = Registry("head")
LOSSES = Registry("loss")
AUGMENTS = Registry("augment")
OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule")
EMAS = Registry("ema")

#: The groups whose `name` chooses among components, in the order in which an experiment is read.
REGISTRIES = {
    registry.group: registry for registry in (DATASETS, BACKBONES, HEADS, LOSSES, AUGMENTS, OPTIMIZERS, SCHEDULES, EMAS)
}

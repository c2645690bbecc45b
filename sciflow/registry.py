"""Registry: finds components through entry points, isolates broken plugins, explains what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points, requires
from importlib.util import find_spec
from typing import Any

import pluggy

from sciflow import hooks
from sciflow.compatibility import STATEMENT, check_hooks, check_stated, read_statement, written
from sciflow.component import Component, check_class
from sciflow.errors import Invalid, Missing, NotFound, nearest

GROUP = "sciflow"


@dataclass(frozen=True)
class Plugin:
    """One entry point and what came of it.

    Attributes
    ----------
    name : str
        Name of the entry point.
    module : str
        What it points at.
    distribution, version : str
        Who installed it.
    error : str
        One line on why it does not load, empty when it does.
    api : str
        The version of `sciflow.hooks.API` that it states; empty where it states none.
    """

    name: str
    module: str
    distribution: str
    version: str
    error: str = ""
    api: str = ""

    @property
    def label(self) -> str:
        """Distribution and version as one word."""
        return f"{self.distribution} {self.version}"


@dataclass
class Registry:
    """Components by kind and name, with the plugin each comes from.

    Parameters
    ----------
    plugins : list of Plugin
        Every entry point of the group, the broken ones too.
    manager : pluggy.PluginManager
        Calls the hooks of the plugins.
    """

    plugins: list[Plugin] = field(default_factory=list)
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("sciflow"))
    _classes: dict[tuple[str, str], tuple[type[Component], Plugin]] = field(default_factory=dict)

    def add(self, cls: type[Component], plugin: Plugin) -> None:
        """Register one class.

        Raises
        ------
        Invalid
            If it breaks the rules of components, or its kind and name are taken; the message names
            both distributions.
        """
        check_class(cls)
        key = (cls.kind, cls.name)
        if key in self._classes and self._classes[key][0] is not cls:
            other = self._classes[key][1]
            raise Invalid(
                f"the {cls.kind} {cls.name!r} of {plugin.label} ({cls.__module__}) is already provided by "
                f"{other.label} ({self._classes[key][0].__module__}); rename one or uninstall one"
            )
        self._classes[key] = (cls, plugin)

    def load(self, points: Iterator[EntryPoint] | list[EntryPoint]) -> None:
        """Load entry points one by one; a broken one is noted and the others are loaded all the same."""
        self.manager.add_hookspecs(hooks)
        for point in sorted(points, key=lambda p: (p.name, p.value)):
            dist = point.dist
            name, version = (dist.name, dist.version) if dist else ("unknown", "")
            plugin = Plugin(point.name, point.value, name, version)
            known = len(self._classes)
            taken = dict(self._classes)
            try:
                plugin = self._load_one(point, plugin)
            # A plugin is foreign code: whatever it raises must not take the others down, nor may it
            # end the process (some call sys.exit where a licence or a library is missing).
            except (Exception, SystemExit) as error:
                self._classes = taken
                plugin = replace(plugin, error=_told(error))
                if self.manager.has_plugin(f"{name}:{point.name}"):
                    self.manager.unregister(name=f"{name}:{point.name}")
            assert len(self._classes) >= known
            self.plugins.append(plugin)

    def _load_one(self, point: EntryPoint, plugin: Plugin) -> Plugin:
        """Register one plugin; returns it with what it states."""
        try:
            module = point.load()
        except (Exception, SystemExit):
            # One that was written for other hooks may miss a name already where it is imported.
            check_stated(read_statement(point.module), plugin.distribution)
            raise
        api = check_stated(getattr(module, STATEMENT, None), plugin.distribution)
        plugin = replace(plugin, api=api)
        check_hooks(module)
        # Two distributions may use the same name for their entry points.
        self.manager.register(module, name=f"{plugin.distribution}:{point.name}")
        offered = getattr(module, "sciflow_components", None)
        given = offered() if offered is not None else []
        if not isinstance(given, Iterable) or isinstance(given, str):
            raise Invalid(f"sciflow_components() returned {given!r}: return a list of Component classes")
        for cls in given:
            if not (isinstance(cls, type) and issubclass(cls, Component)):
                raise Invalid(f"sciflow_components() returned {cls!r}, which is not a Component class")
            _check_whole(cls, plugin)
            self.add(cls, plugin)
        return plugin

    def find(self, name: str, *, kind: str | None = None) -> type[Component]:
        """The class of a component.

        Parameters
        ----------
        name : str
            Its name.
        kind : str or None
            Its kind; needed only where two kinds share the name.

        Raises
        ------
        NotFound
            With the nearest name, what exists, and the plugins that did not load.
        """
        if kind == "component":
            kind = None
        fitting = [c for (k, n), (c, _) in self._classes.items() if n == name and kind in (None, k)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            kinds = ", ".join(c.kind for c in fitting)
            raise NotFound(f"{name!r} is the name of several components ({kinds}): say which kind")
        names = [n for k, n in self._classes if kind in (None, k)]
        raise NotFound(
            f"no {kind or 'component'} {name!r} is installed.{self._broken()} {nearest(name, names)} "
            "One of your own is found by jobs if its package is installed with an entry point of the group "
            "'sciflow' (docs/first-plugin.md)."
        )

    def build(self, document: Mapping[str, Any], *, kind: str | None = None) -> Component:
        """A component from its JSON.

        Raises
        ------
        Invalid, NotFound
            As `Component.from_json` and `find`.
        """
        if "component" not in document:
            raise Invalid(f'a component is written {{"component": "its name", ...}}, got {dict(document)!r}')
        return self.find(str(document["component"]), kind=kind).from_json(document)

    def origin(self, cls: type[Component]) -> Plugin:
        """The plugin that provides a class; a stand-in for a class that is not registered."""
        found = self._classes.get((cls.kind, cls.name))
        if found is not None and found[0] is cls:
            return found[1]
        return Plugin(cls.__module__.partition(".")[0], cls.__module__, "unregistered", "")

    def components(self) -> list[tuple[type[Component], Plugin]]:
        """Every class and its plugin, by kind and name."""
        return [self._classes[key] for key in sorted(self._classes)]

    def _broken(self) -> str:
        broken = [f"{p.name} of {p.label} ({p.error})" for p in self.plugins if p.error]
        return f" These plugins did not load: {'; '.join(broken)}." if broken else ""


def _check_whole(cls: type[Component], plugin: Plugin) -> None:
    """Refuse a class that leaves out what its base class asks for, naming the methods and versions."""
    absent: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    if absent:
        stated = f"version {plugin.api}" if plugin.api else "no version"
        raise Invalid(
            f"{cls.__module__}.{cls.__qualname__} does not define: {', '.join(sorted(absent))}; every "
            f"{cls.kind} does (the plugin states {stated} of sciflow's hooks, here is {written(hooks.API)})"
        )


def _told(error: BaseException) -> str:
    """One line on an error of a plugin."""
    lines = str(error).strip().splitlines()
    if isinstance(error, pluggy.PluginValidationError):
        lines = [", ".join(lines)]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def missing(cls: type[Component]) -> list[str]:
    """Modules in `cls.requires` that are not installed, without importing any."""
    return [name for name in cls.requires if find_spec(name.partition(".")[0]) is None]


def require(component: Component) -> None:
    """Refuse a component whose software is missing.

    Raises
    ------
    Missing
        Naming the modules and how to get them.
    """
    absent = missing(type(component))
    if absent:
        raise Missing(
            f"the {component.kind} {component.name!r} needs {', '.join(absent)}, which this Python does not "
            f"have. {_how(absent)}"
        )


def _how(absent: list[str]) -> str:
    """Which extras of this package bring modules; else where to read on."""
    known: dict[str, list[str]] = {}
    for text in requires("sciflow") or []:
        name, _, extra = text.partition(";")
        extra = extra.partition("extra ==")[2].strip(" '\"()")
        if extra and extra != "all":
            known.setdefault(extra, []).append(re.split("[^A-Za-z0-9._-]", name)[0].lower().replace("-", "_"))
    fitting = [[extra for extra in known if module.lower() in known[extra]] for module in absent]
    if all(fitting):
        wanted = ",".join(sorted({min(names, key=lambda extra: len(known[extra])) for names in fitting}))
        return f"It comes with pip install '.[{wanted}]' (see the README)."
    return "`sciflow doctor` shows what is there; the README says how to install it."


@cache
def registry() -> Registry:
    """The registry of this process, loaded on first use."""
    found = Registry()
    found.load(list(entry_points(group=GROUP)))
    return found

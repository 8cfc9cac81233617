"""A typed, lazy view of one entry-point group."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from hwsim.errors import HwsimError, UnknownNameError
from hwsim.resources import builtin_path, user_paths

T = TypeVar("T")
DEVICE_PACKS = "hwsim.device_packs"
FIGURES = "hwsim.figures"


class Registry(Generic[T]):
    """Plugins of one entry-point group, loaded when asked for.

    Parameters
    ----------
    group : str
        Entry-point group, for example ``hwsim.device_packs``.
    what : str
        Word for one entry, used in errors.
    """

    def __init__(self, group: str, what: str) -> None:
        self.group, self.what = group, what

    @functools.cached_property
    def _entries(self) -> dict[str, importlib.metadata.EntryPoint]:
        found = importlib.metadata.entry_points(group=self.group)
        return {e.name: e for e in sorted(found, key=lambda e: e.name)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, name: str) -> T:
        """Return the object behind a name.

        Raises
        ------
        UnknownNameError
            If no installed package registers the name.
        HwsimError
            If the plugin cannot be imported.
        """
        try:
            entry = self._entries[name]
        except KeyError:
            raise UnknownNameError(self.what, name, self._entries) from None
        try:
            loaded: T = entry.load()
        except Exception as error:
            raise HwsimError(
                f"{self.what} {name!r} ({entry.value}) cannot be loaded: {error}; "
                "reinstall or remove the package that registers it"
            ) from error
        return loaded


@functools.cache
def _figures() -> Registry[Callable[..., Any]]:
    return Registry(FIGURES, "figure")


def draw(figure: str, *arguments: Any, path: str | None = None) -> Any:
    """Draw a registered figure: results name it, the report layer draws it.

    Built-ins stand under ``hwsim.figures`` too: ``roofline``, ``timeline``,
    ``breakdown``.
    """
    return _figures().get(figure)(*arguments, path=path)


@functools.cache
def _device_packs() -> Registry[object]:
    return Registry(DEVICE_PACKS, "device pack")


def device_pack_paths() -> Iterator[Path]:
    """Yield the folder of each installed device pack.

    A pack registers, under ``hwsim.device_packs``, its folder (``str`` or
    ``Path``), a callable that returns it, or its package.
    """
    packs = _device_packs()
    for name in packs:
        target = packs.get(name)
        if callable(target):
            target = _called(name, target)
        if hasattr(target, "__path__"):
            target = next(iter(target.__path__))
        if not isinstance(target, str | Path):
            raise HwsimError(
                f"device pack {name!r} registers {type(target).__name__}; "
                "register a folder, a callable that returns one, or a package"
            )
        folder = Path(target)
        if not folder.is_dir():
            raise HwsimError(
                f"device pack {name!r}: {target} is not a folder; reinstall or "
                "remove the package that registers it"
            )
        yield folder


def _called(name: str, target: Callable[[], object]) -> object:
    try:
        return target()
    except Exception as error:
        raise HwsimError(
            f"device pack {name!r} fails: {type(error).__name__}: {error}; reinstall "
            "or remove the package that registers it"
        ) from error


def search_paths(name: str) -> Iterator[Path]:
    """Yield folders that may hold data of one sort, the user's first.

    The order is ``HWSIM_PATH`` (folders that hold ``devices/`` or
    ``workloads/``), device packs (entry points), then the built-ins.
    """
    for folder in (*user_paths(), *device_pack_paths()):
        if (folder / name).is_dir():
            yield folder / name
    yield builtin_path(name)

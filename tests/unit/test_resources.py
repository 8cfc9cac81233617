"""Where data is looked for: the user's folders, device packs, built-ins."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hwsim import registry, resources
from hwsim.errors import HwsimError, UnknownNameError
from hwsim.registry import Registry, device_pack_paths, search_paths
from hwsim.resources import builtin_path, expanded
from hwsim.specs.catalogs import DEVICES, load_device

DEVICE = """
schema_version = 1
id = "{id}"
name = "{name}"
kind = "asic"
vendor = "Nobody"
architecture = "none"
year = 2026
[compute]
units = 4
unit_kind = "core"
[compute.matrix]
bf16 = "1 TFLOP/s"
[memory.dram]
size = "1 GB"
bandwidth = "10 GB/s"
[[sources]]
kind = "assumed"
title = "a test"
date = 2026-01-01
"""


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Built-in data are looked for once; here each test moves them."""
    builtin_path.cache_clear()
    yield
    builtin_path.cache_clear()


def write_device(root: Path, name: str, title: str = "test device") -> Path:
    folder = root / "devices" / "asic" / name
    folder.mkdir(parents=True)
    path = folder / "spec.toml"
    path.write_text(DEVICE.format(id=name, name=title), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_packs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HWSIM_PATH", raising=False)
    registry._device_packs.cache_clear()
    yield
    registry._device_packs.cache_clear()


def install_packs(
    monkeypatch: pytest.MonkeyPatch, **targets: object
) -> dict[str, ModuleType]:
    """Fake installed packages that register device packs."""
    entries, modules = [], {}
    for name, target in targets.items():
        module = ModuleType(f"pack_{name}")
        module.target = target  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        modules[name] = module
        entries.append(
            importlib.metadata.EntryPoint(
                name, f"{module.__name__}:target", registry.DEVICE_PACKS
            )
        )
    found = importlib.metadata.EntryPoints(entries)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **kw: found.select(**kw)
    )
    registry._device_packs.cache_clear()
    return modules


@pytest.mark.parametrize("name", ["devices", "workloads"])
def test_built_in_data_is_found(name: str) -> None:
    assert builtin_path(name).is_dir()
    assert list(search_paths(name)) == [builtin_path(name)]


def test_missing_built_in_data_names_both_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(resources._CHECKOUT, "devices", "not-there")
    monkeypatch.setattr(
        resources.importlib.resources, "files", lambda name: Path("/nowhere")
    )
    with pytest.raises(HwsimError, match=r"/nowhere/_data/devices nor .*not-there"):
        builtin_path("devices")


def test_the_installed_copy_comes_before_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_data" / "devices").mkdir(parents=True)
    monkeypatch.setattr(resources.importlib.resources, "files", lambda name: tmp_path)
    assert builtin_path("devices") == tmp_path / "_data" / "devices"


def test_lookup_order_is_user_then_packs_then_built_ins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second, pack = (tmp_path / n for n in ("first", "second", "pack"))
    for root in (first, second, pack):
        write_device(root, "my-chip", title=root.name)
    install_packs(monkeypatch, pack=str(pack))
    monkeypatch.setenv("HWSIM_PATH", os.pathsep.join([str(first), "", str(second)]))
    expected = [r / "devices" for r in (first, second, pack)]
    assert list(search_paths("devices")) == [*expected, builtin_path("devices")]
    assert load_device("my-chip").name == "first"
    monkeypatch.setenv("HWSIM_PATH", str(second))
    assert load_device("my-chip").name == "second"
    monkeypatch.delenv("HWSIM_PATH")
    assert load_device("My_Chip").name == "pack"


def test_a_user_device_hides_the_built_in_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = load_device("h100-80gb-sxm").name
    write_device(tmp_path, "h100-80gb-sxm", title="mine")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    assert load_device("h100-80gb-sxm").name == "mine"
    assert load_device("a100-80gb-sxm").name != "mine"
    monkeypatch.delenv("HWSIM_PATH")
    assert load_device("h100-80gb-sxm").name == plain


def test_a_device_written_later_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_device(tmp_path, "one")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    with pytest.raises(UnknownNameError, match="unknown device 'two'"):
        load_device("two")
    (tmp_path / "devices" / "asic" / "two").mkdir()
    assert "two" not in set(DEVICES)
    path = tmp_path / "devices" / "asic" / "two" / "spec.toml"
    path.write_text(DEVICE.format(id="two", name="second"), encoding="utf-8")
    assert load_device("two").name == "second"


def test_an_edited_file_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_device(tmp_path, "one", title="before")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    assert load_device("one").name == "before"
    path.write_text(DEVICE.format(id="one", name="after"), encoding="utf-8")
    os.utime(path, ns=(1, 1))  # some file systems have coarse clocks
    assert load_device("one").name == "after"


@pytest.mark.parametrize("text", ["/does/not/exist", "~nobody-here-x/data"])
def test_a_wrong_user_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HWSIM_PATH", text)
    with pytest.raises(
        HwsimError, match=r"HWSIM_PATH: .* is not a folder with devices/"
    ):
        list(search_paths("devices"))


def test_a_user_path_without_data_in_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_device(tmp_path, "one")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path / "devices"))
    with pytest.raises(HwsimError, match="is not a folder with devices/"):
        load_device("one")


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_device(tmp_path / "data", "one")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HWSIM_PATH", "~/data")
    assert load_device("one").name == "test device"
    assert expanded("~nobody-here-x/y") == Path("~nobody-here-x/y")


def test_a_pack_may_be_a_folder_a_callable_or_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        write_device(tmp_path / name, f"chip-{name}")
    package = ModuleType("package")
    package.__path__ = [str(tmp_path / "c")]
    install_packs(
        monkeypatch, a=tmp_path / "a", b=lambda: str(tmp_path / "b"), c=package
    )
    assert list(device_pack_paths()) == [tmp_path / n for n in ("a", "b", "c")]
    for name in ("a", "b", "c"):
        assert load_device(f"chip-{name}").id == f"chip-{name}"


def boom() -> str:
    raise RuntimeError("no data")


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (42, "registers int; register a folder"),
        (boom, "fails: RuntimeError: no data; reinstall or remove"),
        ("/does/not/exist", "/does/not/exist is not a folder; reinstall or remove"),
    ],
)
def test_a_broken_pack_is_named(
    monkeypatch: pytest.MonkeyPatch, target: object, fault: str
) -> None:
    install_packs(monkeypatch, broken=target)
    with pytest.raises(HwsimError) as raised:
        list(device_pack_paths())
    assert "device pack 'broken'" in str(raised.value)
    assert fault in str(raised.value)


def test_a_pack_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = install_packs(monkeypatch, broken="x")
    del modules["broken"].target
    with pytest.raises(HwsimError, match=r"'broken' .*cannot be loaded.*reinstall"):
        list(device_pack_paths())


def test_a_registry_is_lazy_sorted_and_knows_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_packs(monkeypatch, zeta="z", alpha="a")
    packs: Registry[str] = Registry(registry.DEVICE_PACKS, "device pack")
    assert list(packs) == ["alpha", "zeta"]
    assert packs.get("alpha") == "a"
    with pytest.raises(UnknownNameError, match="did you mean alpha"):
        packs.get("alpa")

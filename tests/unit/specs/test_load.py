"""Reading spec files: names, paths, inheritance, and every sort of bad file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hwsim.errors import InputError, SpecError, UnknownNameError
from hwsim.specs import load
from hwsim.specs.catalogs import DEVICES, load_device, load_stack, load_system
from hwsim.specs.load import dump_json, fold, looks_like_path, read_table

MINE = """
schema_version = 1
id = "mine"
name = "My chip"
kind = "asic"
vendor = "Nobody"
architecture = "none"
year = 2026
[compute]
units = 4
unit_kind = "core"
clock = "1 GHz"
[compute.matrix]
bf16 = "10 TFLOP/s"
[memory.sram]
size = "1 MB"
[memory.dram]
size = "16 GB"
bandwidth = "500 GB/s"
[[sources]]
kind = "assumed"
title = "a test"
date = 2026-01-01
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def fault_of(path: str) -> str:
    with pytest.raises(SpecError) as raised:
        load_device(path)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(path)
    return text.removeprefix(path).removeprefix(": ")


def test_a_device_of_ones_own_loads_by_path(tmp_path: Path) -> None:
    device = load_device(write(tmp_path, MINE))
    assert device.compute.matrix["bf16"] == 10e12
    assert device.main_memory_name == "dram"
    assert device.bandwidth == 500e9


def test_a_device_file_is_a_system_of_one(tmp_path: Path) -> None:
    system = load_system(write(tmp_path, MINE))
    assert (system.num_devices, system.device.id) == (1, "mine")


def test_json_holds_si_numbers(tmp_path: Path) -> None:
    device = load_device(write(tmp_path, MINE))
    assert load_device(write(tmp_path, dump_json(device), "mine.json")) == device


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"500 GB/s"', "500", "memory.dram.bandwidth: 500 has no unit; write it"),
        ('"500 GB/s"', "500e9", "memory.dram.bandwidth: 500000000000.0 has no unit"),
        ('"500 GB/s"', '"500"', "memory.dram.bandwidth: '500' has no unit"),
        ('"500 GB/s"', '"500 GB"', "memory.dram.bandwidth: '500 GB' has unit 'B'"),
        ('"500 GB/s"', '"-5 GB/s"', "memory.dram.bandwidth: '-5 GB/s' is negative"),
        ('"500 GB/s"', '"5 GHz"', "memory.dram.bandwidth: '5 GHz' has unit 'Hz'"),
        (
            '"500 GB/s"',
            '"9 EB/s"',
            "'9 EB/s' is outside the plausible 1 MB/s to 1 EB/s",
        ),
        ('"500 GB/s"', '"nan GB/s"', "memory.dram.bandwidth: 'nan GB/s' is not finite"),
        ('"500 GB/s"', "nan", "memory.dram.bandwidth: nan has no unit"),
        ('"500 GB/s"', "true", "memory.dram.bandwidth: True is not a quantity"),
        ('"500 GB/s"', "[1]", "memory.dram.bandwidth: [1] is not a quantity"),
        ('bandwidth = "500 GB/s"', "", "memory.dram.bandwidth is missing"),
        ("units = 4", "", "compute.units: is missing; add it"),
        ("units = 4", "units = 0", "compute.units: 0: input should be greater than"),
        ("units = 4", "units = -4", "compute.units: -4: input should be greater than"),
        ("units = 4", "units = 4.0", "compute.units: 4.0: input should be a valid int"),
        ("units = 4", "units = true", "compute.units: True: input should be a valid"),
        ("units = 4", "units = 9999999999", "compute.units: 9999999999: input should"),
        (
            "units = 4",
            "unist = 4",
            "compute.unist: unknown key (value 4) (+1 more faults); did you mean unit",
        ),
        ("[compute]", "[compute]\nspeed = 1", "compute.speed: unknown key (value 1)"),
        ("bf16 =", "bf17 =", "compute.matrix.bf17"),
        ('kind = "asic"', 'kind = "toaster"', "kind: 'toaster': input should be 'cpu'"),
        ('id = "mine"', 'id = "My Chip"', "id: 'My Chip': string should match pattern"),
        ("year = 2026", "year = 1066", "year: 1066: input should be greater than"),
        ("schema_version = 1", "schema_version = 2", "schema_version: 2: input should"),
        ('"assumed"', '"guessed"', "sources.0.kind: 'guessed': input should be"),
        (
            "2026-01-01",
            '"soon"',
            "sources.0.date: 'soon': input should be a valid date",
        ),
        ("[[sources]]", '[[sources]]\ncovers = ["compute"]', "has no source; add"),
    ],
)
def test_a_wrong_figure_says_where_and_what(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    assert old in MINE
    assert fault in fault_of(write(tmp_path, MINE.replace(old, new)))


def test_a_long_bad_value_is_cut(tmp_path: Path) -> None:
    text = MINE.replace('kind = "asic"', f'kind = "{"x" * 500}"')
    assert len(fault_of(write(tmp_path, text))) < 200


@pytest.mark.parametrize(
    ("content", "name", "fault"),
    [
        (b"id = \xff\xfe", "mine.toml", "is not UTF-8 text; save it as UTF-8"),
        (b"id = ", "mine.toml", "is not valid TOML"),
        (b"id = 1\nid = 2", "mine.toml", "is not valid TOML"),
        (b"{", "mine.json", "is not valid JSON"),
        (b"[1, 2]", "mine.json", "is not a table of keys"),
        (b"", "mine.json", "is not valid JSON"),
        (b"[" * 100_000, "mine.json", "is nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "mine.json", "is not valid JSON"),
        (b"id = " + b"9" * 5000, "mine.toml", "is not valid TOML"),
    ],
)
def test_a_bad_file_is_one_clear_line(
    tmp_path: Path, content: bytes, name: str, fault: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert fault in fault_of(str(path))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("NaN", "is not finite"),
        ("1" + "0" * 400, "is not finite"),
        ("-1", "is negative"),
    ],
)
def test_json_numbers_are_checked(tmp_path: Path, value: str, fault: str) -> None:
    table = json.loads(dump_json(load_device(write(tmp_path, MINE))))
    table["memory"]["dram"]["bandwidth"] = "HERE"
    text = json.dumps(table).replace('"HERE"', value)
    assert fault in fault_of(write(tmp_path, text, "mine.json"))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)  # sparse: takes no space
    assert fault_of(str(path)) == "is 2048 MiB; a spec is at most 4 MiB of text"


def test_a_file_at_the_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINE)
    monkeypatch.setattr(load, "MAX_SPEC_BYTES", Path(path).stat().st_size)
    assert load_device(path).id == "mine"
    monkeypatch.setattr(load, "MAX_SPEC_BYTES", Path(path).stat().st_size - 1)
    assert "a spec is at most" in fault_of(write(tmp_path, MINE, "copy.toml"))


def test_missing_files_folders_and_odd_files(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    assert fault_of(missing) == "does not exist; name a .toml or .json file"
    (tmp_path / "folder.toml").mkdir()
    assert fault_of(str(tmp_path / "folder.toml")).startswith("is a folder")
    os.mkfifo(tmp_path / "pipe.toml")
    assert fault_of(str(tmp_path / "pipe.toml")).startswith("is not a plain file")
    assert "cannot be read" in fault_of(str(tmp_path / ("x" * 300 + ".toml")))
    assert "does not exist" in fault_of("~nobody-here-x/a.toml")


def test_an_unreadable_file_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINE)

    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert fault_of(path) == "cannot be read (Permission denied)"


CHILD = """
based_on = "h100-80gb-sxm"
id = "h100-fast"
name = "H100 with faster memory"
[memory.hbm]
bandwidth = "4.8 TB/s"
"""


def test_based_on_changes_some_figures_and_says_so(tmp_path: Path) -> None:
    parent, child = load_device("h100-80gb-sxm"), load_device(write(tmp_path, CHILD))
    assert child.bandwidth == 4.8e12
    assert child.compute == parent.compute
    assert child.aliases == ()
    own, kept = (
        child.source_of("memory.hbm.bandwidth"),
        child.source_of("compute.units"),
    )
    assert own is not None
    assert (own.kind, own.title) == ("assumed", "hypothetical, written in mine.toml")
    assert kept == parent.source_of("compute.units")
    assert child.source_of("memory.hbm.size") == parent.source_of("memory.hbm.size")


def test_a_nameless_variant_does_not_pass_for_its_parent(tmp_path: Path) -> None:
    text = CHILD.replace('id = "h100-fast"', "").replace(
        'name = "H100 with faster memory"', ""
    )
    device = load_device(write(tmp_path, text, "faster.toml"))
    assert device.id == "faster"
    assert device.name == (
        f"{load_device('h100-80gb-sxm').name}, changed in faster (assumed)"
    )


def test_a_variant_may_name_its_own_source(tmp_path: Path) -> None:
    source = '[[sources]]\nkind = "measured"\ntitle = "me"\ndate = 2026-01-01\n'
    text = CHILD + source + 'covers = ["memory.hbm.bandwidth"]\n'
    found = load_device(write(tmp_path, text)).source_of("memory.hbm.bandwidth")
    assert found is not None
    assert found.kind == "measured"


def test_a_variant_follows_its_parent(tmp_path: Path) -> None:
    parent = write(tmp_path, MINE, "parent.toml")
    child = write(tmp_path, f'based_on = "{parent}"\nid = "child"', "child.toml")
    assert load_device(child).compute.units == 4
    write(tmp_path, MINE.replace("units = 4", "units = 8"), "parent.toml")
    os.utime(parent, ns=(1, 1))
    assert load_device(child).compute.units == 8


def test_based_on_in_a_circle_is_refused(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one.toml"), str(tmp_path / "two.toml")
    write(tmp_path, f'based_on = "{two}"', "one.toml")
    write(tmp_path, f'based_on = "{one}"', "two.toml")
    assert "goes round in a circle" in fault_of(one)
    write(tmp_path, f'based_on = "{one}"', "one.toml")
    assert "goes round in a circle" in fault_of(one)


def test_based_on_faults(tmp_path: Path) -> None:
    path = write(tmp_path, "based_on = 5")
    assert fault_of(path) == "based_on: 5 is not a name"
    with pytest.raises(UnknownNameError, match="did you mean h100-80gb-sxm"):
        load_device(write(tmp_path, 'based_on = "h100-80gb-sxn"', "b.toml"))
    path = write(tmp_path, CHILD.replace("hbm]", "hbm]\nspede = 1"), "c.toml")
    assert "memory.hbm.spede: unknown key" in fault_of(path)
    path = write(tmp_path, "sources = 5\n" + CHILD, "d.toml")
    assert fault_of(path).startswith("sources: is not a list of tables")


@pytest.mark.parametrize(
    "name", ["h100-80gb-sxm", "H100-80GB-SXM", "h100_80gb_sxm", " H100 80GB  SXM "]
)
def test_names_ignore_case_and_separators(name: str) -> None:
    assert load_device(name).id == "h100-80gb-sxm"


def test_every_alias_finds_its_device() -> None:
    for name in DEVICES:
        device = load_device(name)
        for alias in device.aliases:
            assert load_device(alias).id == device.id, alias


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as raised:
        load_device("h100-80gb-sxn")
    assert raised.value.nearest[0] == "h100-80gb-sxm"
    assert "(hwsim devices lists them)" in str(raised.value)
    with pytest.raises(
        UnknownNameError, match="unknown stack 'megatron-corr': did you"
    ):
        load_stack("megatron-corr")
    with pytest.raises(UnknownNameError, match="did you mean dgx-h100"):
        load_system("dgx-h10")
    with pytest.raises(UnknownNameError, match="unknown system or device"):
        load_system("zzzzzz")


@pytest.mark.parametrize("name", ["", "   ", None, 5])
def test_an_empty_name_is_refused(name: Any) -> None:
    for loader in (load_device, load_stack, load_system):
        with pytest.raises(InputError, match="name is empty; give an id or a path"):
            loader(name)


def test_all_keys_that_are_missing_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('id = "mine"\nname = "Mine"\nkind = "gpu"\n', encoding="utf-8")
    with pytest.raises(SpecError, match=r"vendor, architecture, .* are missing; add"):
        load_device(str(path))


def test_broken_aliases_do_not_break_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "devices" / "asic" / "odd"
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text("aliases = 5", encoding="utf-8")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    assert load_device("H100").kind == "gpu"
    with pytest.raises(SpecError, match=r"id.* missing"):
        load_device("odd")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.toml", True),
        ("a.json", True),
        ("x/y", True),
        ("a\\b", True),
        ("h100", False),
    ],
)
def test_paths_are_told_from_names(name: str, expected: bool) -> None:
    assert looks_like_path(name) is expected


def test_fold() -> None:
    assert fold("A100_80GB  SXM") == "a100-80gb-sxm"


def test_read_table_gives_the_raw_table(tmp_path: Path) -> None:
    assert read_table(Path(write(tmp_path, "a = 1"))) == {"a": 1}

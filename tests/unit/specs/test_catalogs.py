"""Files that could be of several catalogs."""

import pytest

from hwsim.specs.catalogs import load_device, load_system


@pytest.mark.parametrize(
    ("body", "device"),
    [
        ('based_on = "h100-80gb-sxm"', "h100-80gb-sxm"),
        ('based_on = "h100"\n[power]\ntdp = "500 W"', "h100-80gb-sxm"),
        ('based_on = "dgx-h100"', None),
        ('based_on = "dgx-h100"\nnodes = 1', None),
    ],
)
def test_a_file_is_a_device_or_a_system_by_what_it_is_based_on(body, device, tmp_path):
    path = tmp_path / "own.toml"
    head, _, rest = body.partition("\n")
    path.write_text(f'{head}\nid = "own"\nname = "Own"\n{rest}\n', encoding="utf-8")
    system = load_system(str(path))
    assert system.num_devices == (1 if device else 8)
    if device:
        assert system.device.bandwidth == load_device(device).bandwidth

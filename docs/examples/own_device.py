"""A GPU of your own, in ten lines of TOML, beside the one it starts from."""

import tempfile
from pathlib import Path

import hwsim

SPEC = """
based_on = "h100-80gb-sxm"
id = "dream-gpu"
name = "H100 with the memory of tomorrow"

[memory.hbm]
size = "192 GiB"
bandwidth = "8 TB/s"
technology = "HBM4"
"""

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "dream-gpu.toml"
    path.write_text(SPEC, encoding="utf-8")
    dream = hwsim.load_device(str(path))

ask = {"batch": 4, "prompt": 1024, "output": 64}
today = hwsim.infer("llama-3.1-70b", "h100-80gb-sxm", **ask)
tomorrow = hwsim.infer("llama-3.1-70b", dream, **ask)
print(dream.name)
print("memory source:", dream.source_of("memory.hbm.bandwidth").kind)
print("70B fits today:", today.fits, "- tomorrow:", tomorrow.fits)
print("tokens come faster:", tomorrow.tpot_s < today.tpot_s)
gains = [today.prefill_s / tomorrow.prefill_s, today.tpot_s / tomorrow.tpot_s]
print("prompts gain less than tokens:", gains[0] < gains[1])

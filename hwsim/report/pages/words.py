"""Keys of figures and parameters in words, for sentences."""

from __future__ import annotations

METRICS = {
    "latency_s": "the time to the last token", "ttft_s": "the time to the first token",
    "tpot_s": "the time per output token", "step_s": "the time of a training step",
    "tokens_per_s": "the tokens per second", "mfu": "the share of peak that is used",
    "usd_per_mtok": "the rent per million tokens",
    "kwh_per_mtok": "the energy per million tokens",
    "e2e_s.mean": "the mean time of an answer",
}  # fmt: skip
_SHORT = {"hbm", "dram", "gddr", "l1", "l2", "l3", "llc"}
_KNOWN = {
    "device.compute.units": "the number of compute units",
    "device.compute.clock": "the clock",
    "device.launch.eager": "the time of a launch",
    "stack.matmul_derate": "the rate of matrix kernels",
    "stack.attention_derate": "the rate of attention kernels",
    "stack.launch.host_time": "the host's time per kernel",
    "stack.launch.step_overhead": "the fixed time of a step",
    "batch": "the batch", "prompt": "the prompt length", "output": "the answer length",
    "micro_batch": "the microbatch", "seq": "the sequence length",
    "rate": "the rate of requests",
}  # fmt: skip


def metric_words(key: str) -> str:
    """Return what a figure is, in words."""
    return METRICS.get(key, key.replace("_", " "))


def parameter_words(key: str) -> str:
    """Return what a parameter is, in words; a key that has none stays.

    Examples
    --------
    >>> parameter_words("device.memory.hbm.bandwidth")
    'HBM bandwidth'
    >>> parameter_words("device.compute.matrix.bf16")
    'the bf16 peak of the matrix units'
    """
    if key in _KNOWN:
        return _KNOWN[key]
    parts = key.split(".")
    if parts[:2] == ["device", "memory"] and len(parts) == 4:
        level = parts[2].upper() if parts[2] in _SHORT else parts[2]
        return f"{level} {parts[3]}"
    if parts[:2] == ["device", "compute"] and len(parts) == 4:
        return f"the {parts[3]} peak of the {parts[2]} units"
    if parts[:2] == ["system", "networks"] and len(parts) == 4:
        return f"{parts[2]} {parts[3]}"
    return key

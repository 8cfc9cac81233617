"""The command: arguments, provenance, which case goes to which timer."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from .backend import Backend, BackendError, Work, load_torch, time_work
from .cases import Case, Skip, interleave
from .collectives import Group
from .kernels import build
from .nets import NETS
from .plan import operator_plan
from .power import Sensors, Watch
from .runner import Outcome, Summary, run, significant
from .tables import SHAPES, TableError, Tables
from .whole import build_whole, fresh_compiler, whole_plan

BUDGET = 1800.0
HOLD = 2.0  # how long an operator repeats for its energy. [s]
WARM = 1.0  # and before that, until clocks have settled. [s]
DEVICES = (  # a device's id by a pattern in the name that its driver gives
    (r"GH200.*144G", "gh200-144gb"), (r"GH200", "gh200-96gb"), (r"GB200", "gb200"),
    (r"GB300", "gb300"), (r"B300", "b300-sxm"), (r"B200", "b200-sxm"),
    (r"H200$|H200 SXM", "h200-sxm"), (r"H100 NVL", "h100-nvl"),
    (r"H100.*PCIe", "h100-80gb-pcie"), (r"H100.*80GB", "h100-80gb-sxm"),
    (r"H800", "h800-80gb-sxm"), (r"H20$", "h20"),
    (r"A100.*PCIe?-40GB", "a100-40gb-pcie"),
    (r"A100.*PCIe|A100 80GB", "a100-80gb-pcie"),
    (r"A100-SXM4-80GB", "a100-80gb-sxm"), (r"A100-SXM4-40GB", "a100-40gb-sxm"),
    (r"A10G", "a10g"), (r"A10$", "a10"), (r"A30$", "a30"), (r"A40$", "a40"),
    (r"L40S", "l40s"), (r"L40$", "l40"), (r"L20$", "l20"), (r"L4$", "l4"),
    (r"RTX 5090", "rtx-5090"), (r"RTX 4090", "rtx-4090"), (r"RTX 3090$", "rtx-3090"),
    (r"RTX A6000", "rtx-a6000"), (r"T4$", "t4"), (r"V100-SXM2-32GB", "v100-sxm2-32gb"),
    (r"V100-SXM2-16GB", "v100-sxm2-16gb"), (r"V100-PCIE-16GB", "v100-pcie-16gb"),
)  # fmt: skip


class Timer:
    """Sends each case to what measures it.

    Parameters
    ----------
    backend : Backend
        The device.
    sensors : Sensors
        Its power and clocks.
    group : Group
        All GPUs, for collectives.
    """

    def __init__(self, backend: Backend, sensors: Sensors, group: Group) -> None:
        self.backend, self.sensors, self.group = backend, sensors, group

    def measure(self, case: Case, left: float) -> Outcome:
        """Return a case's samples; raise Skip where it cannot be had."""
        if case.table == "collective":
            return self.group.measure(case)
        with self.backend.guarded():
            if case.table == "power":
                return self._power(case)
            if case.table == "end_to_end":
                with fresh_compiler(self.backend, case):
                    work = build_whole(self.backend, case)
                    return time_work(self.backend, work, launch=case.launch, left=left)
            work = build(self.backend, case)
            return time_work(self.backend, work, launch=case.launch, left=left)

    def _power(self, case: Case) -> Outcome:
        if self.sensors.how == "none":
            raise Skip("neither pynvml nor nvidia-smi can tell the power here")
        work = build(self.backend, loaded(case))
        self._repeat(work, WARM)
        with Watch(self.sensors) as watch:
            calls, elapsed = self._repeat(work, HOLD)
        if watch.joules is None:
            raise Skip("the sensors gave no energy and no power")
        # The watch runs a little longer than the calls that are counted.
        power = watch.joules / watch.elapsed
        columns: dict[str, Any] = {
            "energy_j": significant(power * elapsed / calls),
            "power_w": significant(power),
            "utilization": 1.0,
            "duration_s": significant(elapsed),
        }
        if watch.clocks:
            mean = sum(watch.clocks) / len(watch.clocks)
            columns.update(
                clock_mhz=significant(mean), least_clock_mhz=min(watch.clocks)
            )
        return Outcome([elapsed / calls], columns)

    def _repeat(self, work: Work, seconds: float) -> tuple[int, float]:
        """Run for a while without a pause; return (calls, seconds)."""
        start, calls = time.perf_counter(), 0
        work.call(0)
        self.backend.sync()
        single = max(time.perf_counter() - start, 1e-6)
        burst = max(1, min(1000, int(0.1 / single)))
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for i in range(burst):
                work.call(i % work.copies)
            calls += burst
            self.backend.sync()
        return calls, time.perf_counter() - start


def loaded(case: Case) -> Case:
    """Return the operator that a power case repeats."""
    m, n, k = (case.number(name) for name in ("m", "n", "k"))
    operator = str(case["operator"])
    if operator == "linear":
        table, where = "gemm", {"m": m, "n": n, "k": k, "batch": 1}
    elif operator in ("prefill", "decode"):  # m sequences of n tokens, k wide heads
        table = "attention"
        where = {"batch": m, "heads": 32, "kv_heads": 8, "head_dim": k,
                 "seq_q": n if operator == "prefill" else 1, "seq_kv": n}  # fmt: skip
    else:
        table, where = "elementwise", {"m": m, "n": n}
    return Case(table, operator, case.dtype, tuple(where.items()), "sdpa")


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    made = argparse.ArgumentParser(
        prog="hwsim measure cuda",
        description="Time operators and small models on a CUDA GPU. The same command "
        "again goes on where it stopped.",
    )
    made.add_argument("--out", default="measurements", help="folder for the tables")
    made.add_argument("--budget", type=_seconds, default=BUDGET, metavar="TIME",
                      help="wall time to keep to: 900, 15m, 1h")  # fmt: skip
    made.add_argument("--device", default="", help="device id to write in the rows; "
                      "by default from the GPU's name")  # fmt: skip
    made.add_argument("--gpu", type=int, default=0, help="index of the GPU (default 0)")
    made.add_argument("--only", default="", metavar="TABLE,…",
                      help=f"tables to measure: {', '.join(SHAPES)}")  # fmt: skip
    made.add_argument("--models", default="", metavar="NAME,…",
                      help=f"end-to-end models: {', '.join(NETS)}")  # fmt: skip
    made.add_argument("--list", action="store_true", help="print the cases and stop")
    made.add_argument("--host", action="store_true",
                      help="run on the CPU, to try the program out")  # fmt: skip
    return made


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 900, 15m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def chosen(only: str, models: str, gpus: int) -> list[Case]:
    """Return the cases asked for, most informative first."""
    tables, names = _names(only, SHAPES, "table"), _names(models, NETS, "model")
    cases = interleave([(3.0, operator_plan(gpus)), (1.0, whole_plan())])
    return [
        c
        for c in cases
        if (not tables or c.table in tables)
        and (not names or c.table != "end_to_end" or c["model"] in names)
    ]


def _names(text: str, known: Any, what: str) -> set[str]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(known))
    if unknown:
        raise BackendError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    return names


def device_id(name: str) -> str:
    """Return a device's id from the name that its driver gives."""
    for pattern, known in DEVICES:
        if re.search(pattern, name, flags=re.IGNORECASE):
            return known
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "unknown-gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    asked = parser().parse_args(arguments)
    try:
        if asked.list:
            for case in chosen(asked.only, asked.models, 8):
                sys.stdout.write(f"{case.key}\n")
            return 0
        return _measure(
            asked, list(arguments) if arguments is not None else sys.argv[1:]
        )
    except (BackendError, TableError) as error:
        sys.stderr.write(f"hwsim measure cuda: {error}\n")
        return 2
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0]
        sys.stderr.write(
            f"hwsim measure cuda: the device failed: {first}; "
            "the same command goes on after this case\n"
        )
        return 3
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130


def _measure(asked: argparse.Namespace, arguments: list[str]) -> int:
    started = time.monotonic()
    torch = load_torch()
    backend = Backend(torch, "cpu" if asked.host else f"cuda:{asked.gpu}")
    gpus = torch.cuda.device_count() if backend.cuda else 1
    cases = chosen(asked.only, asked.models, gpus)
    name, uuid = _identity(torch, backend)
    sensors = Sensors(uuid, asked.gpu)
    tables = Tables(asked.out, device=asked.device or device_id(name),
                    source=f"hwsim-measure:torch-{torch.__version__}")  # fmt: skip
    tables.record({**_provenance(torch, name, arguments), "before": sensors.facts()})
    group = Group(gpus)
    timer = Timer(backend, sensors, group)
    try:
        done = run(cases, timer.measure, tables, report=_say,
                   budget=asked.budget - (time.monotonic() - started))  # fmt: skip
    finally:
        group.close()
        tables.record({"after": sensors.facts(), "ended": _now()})
    sys.stderr.write(
        f"{done.measured} measured, {done.already} from before, "
        f"{done.skipped} skipped, {done.left} left for a larger budget; "
        f"{done.seconds:.0f} s; in {asked.out}\n"
    )
    return 0


def _identity(torch: Any, backend: Backend) -> tuple[str, str]:
    if not backend.cuda:
        return platform.processor() or "host", ""
    known = torch.cuda.get_device_properties(backend.device)
    uuid = str(getattr(known, "uuid", ""))
    if uuid and not uuid.startswith(("GPU-", "MIG-")):
        uuid = f"GPU-{uuid}"
    return str(known.name), uuid


def _provenance(torch: Any, name: str, arguments: list[str]) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "began": _now(),
        "command": " ".join(["hwsim measure cuda", *arguments]),
        "device_name": name,
        "gpus": torch.cuda.device_count(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()) if cuda else "",
        "nccl": str(torch.cuda.nccl.version()) if cuda else "",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "method": "median of CUDA-event samples; operands rotated past the L2 unless "
        "hot; graph: replay of a captured burst",
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _say(case: Case, outcome: Outcome | None, so_far: Summary, total: int) -> None:
    number = so_far.measured + so_far.skipped + so_far.already + so_far.left
    if outcome is None:
        what = "skipped"
    else:
        middle = sorted(outcome.samples)[len(outcome.samples) // 2]
        what = f"{middle * 1e6:.4g} us"
    key = case.key.replace("|", " ")
    sys.stderr.write(f"[{number}/{total} {so_far.seconds:.0f} s] {key}: {what}\n")

"""Generated tables of targets and of devices left out, from files that ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refresh_accuracy import FAMILIES, calibrations, markdown

from hwsim.report import format as fmt
from hwsim.specs.calibration import load_intervals
from hwsim.specs.calibration_file import Errors, LeftOut

LARGE = "bf16, n and k from 1,024"
A100, H100, H200 = "a100-80gb-sxm", "h100-80gb-sxm", "h200-sxm"
B200, L40S = "b200-sxm", "l40s"


@dataclass(frozen=True)
class Target:
    """What is aimed at: median and mean in device, median of devices left out."""

    family: str
    part: str
    devices: tuple[str, ...]
    median: float
    mean: float
    elsewhere: float | None


def _for(
    family: str,
    part: str,
    elsewhere: float | None,
    *groups: tuple[tuple[str, ...], float, float],
) -> list[Target]:
    return [Target(family, part, *group, elsewhere) for group in groups]


FIVE = (A100, H100, H200, B200, L40S)
TARGETS = (
    Target("gemm", LARGE, (A100,), 4, 6, 10),
    Target("gemm", LARGE, (H100,), 4, 6, None),
    Target("gemm", LARGE, (H200, B200), 5, 7, 7),
    Target("gemm", LARGE, (L40S,), 6, 9, 14),
    *_for("gemm", "bf16", 12, (FIVE[:4], 6, 9), ((L40S,), 8, 14)),
    *_for("gemm", "fp8", 14, (FIVE[1:], 8, 11)),
    *_for("gemm", "fp8_block", 14, (FIVE[1:4], 8, 11)),
    *_for("attention_prefill", "", 14, (FIVE, 5, 10)),
    *_for("attention_decode", "", 14, (FIVE[1:], 5.5, 8), ((A100,), 8, 14)),
    *_for("elementwise", "", 10, (FIVE[1:], 5, 8)),
    *_for("moe", "", 14, (FIVE, 8, 12)),
    *_for("collective", "", 18, (FIVE, 8, 12)),
)


def _in_device(target: Target, device: str) -> Errors | None:
    fits = {file.device: file.families for file in calibrations()}
    fit = fits[device].get(target.family)
    if fit is None:
        return None
    return fit.by_group.get(target.part) if target.part else fit.held_out


def _left_out(target: Target, device: str) -> LeftOut | None:
    """Return errors from the device's generation if another of it was measured."""
    part = "" if len(_parts(target.family, device)) == 1 else target.part
    found = [
        one
        for one in load_intervals().left_out
        if (one.family, one.device) == (target.family, device)
        and one.part in {target.part, part}
    ]
    return min(found, key=lambda one: one.origin, default=None)


def _parts(family: str, device: str) -> set[str]:
    return {
        one.part
        for one in load_intervals().left_out
        if (one.family, one.device) == (family, device)
    }


def _mark(reached: float, aimed: float) -> str:
    text = fmt.percent(reached, 1)
    return text if reached <= aimed / 100 else f"**{text}**"


def targets() -> str:
    """Return what was aimed at and what is reached; misses in bold."""
    rows = []
    for target in TARGETS:
        for device in target.devices:
            own, other = _in_device(target, device), _left_out(target, device)
            if own is None:
                continue
            label = FAMILIES[target.family] + (target.part and f": {target.part}")
            aim = "–" if target.elsewhere is None else f"{target.elsewhere:g} %"
            limit = 100.0 if target.elsewhere is None else target.elsewhere
            rows.append([
                label, device, f"{target.median:g} / {target.mean:g} %",
                f"{_mark(own.median_ape, target.median)} / "
                f"{_mark(own.mape, target.mean)}",
                aim,
                "–" if other is None else _mark(other.errors.median_ape, limit),
                "–" if other is None else _FROM[other.origin],
            ])  # fmt: skip
    head = ("Work", "Device", "Aim: median / mean", "Held out", "Aim, device left out",
            "Median", "Fitted to")  # fmt: skip
    return markdown(head, rows, left=2)


_FROM = {"generation": "its generation", "kind": "other generations"}


def left_out() -> str:
    """Return errors on devices that the fit never saw, all rows and parts."""
    rows: list[Sequence[str]] = []
    for one in load_intervals().left_out:
        if one.part and len(_parts(one.family, one.device)) == 2:
            continue
        rows.append([
            FAMILIES[one.family], one.device, _FROM[one.origin], one.part or "all",
            fmt.percent(one.errors.median_ape, 1), fmt.percent(one.errors.mape, 1),
            fmt.signed_percent(one.errors.bias, 1),
        ])  # fmt: skip
    head = ("Family", "Device", "Fitted to", "Part", "Median", "Mean",
            "Median, signed")  # fmt: skip
    return markdown(head, rows, left=4)


def shipped() -> str:
    """Return what each calibration that ships reaches, in sample and held out."""
    rows = []
    for family, label in FAMILIES.items():
        for file in calibrations():
            fit = file.families.get(family)
            if fit is None or fit.held_out is None or fit.physics_held_out is None:
                continue
            rows.append([
                label, file.device, *map(_pair, (
                    fit.held_out, fit.physics_held_out, fit.in_sample,
                )),
                fmt.percent(fit.interval.coverage, 1),
                fmt.percent(fit.interval.width, 0),
            ])  # fmt: skip
    head = ("Family", "Device", "Held out", "Without trees", "In sample", "Coverage",
            "Mean width")  # fmt: skip
    return markdown(head, rows, left=2)


def _pair(errors: Errors) -> str:
    return f"{fmt.percent(errors.median_ape, 1)} / {fmt.percent(errors.mape, 1)}"


PARTS: dict[str, Callable[[], str]] = {
    "accuracy_targets": targets, "left_out": left_out, "shipped": shipped,
}  # fmt: skip

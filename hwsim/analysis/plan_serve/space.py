"""Which deployments of a service there are to choose from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hwsim.analysis.check import dtype_on, known_dtype, positive_int
from hwsim.analysis.serving.layout import ReplicaLayout, checked_layout
from hwsim.errors import HwsimError, InputError
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.network import divisors
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

WIDE = ("fp32", "bf16", "fp16")
DEGREES = ("tp", "pp", "ep", "attention_dp")
Degrees = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of a deployment: arithmetic, stored weights, keys and values."""

    dtype: str
    weight_dtype: str
    kv_dtype: str

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Return a precision from ``fp8``, ``bf16/int4`` or ``fp8/fp8/bf16``.

        Examples
        --------
        >>> Precision.parse("bf16/int4")
        Precision(dtype='bf16', weight_dtype='int4', kv_dtype='bf16')
        """
        parts = [part.strip() for part in str(text).split("/")]
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise InputError(
                f"precision {text!r} is not DTYPE[/WEIGHTS[/KV]]; write fp8 or "
                "bf16/int4"
            )
        dtype = parts[0]
        weights = parts[1] if len(parts) > 1 else dtype
        kv = parts[2] if len(parts) > 2 else (dtype if dtype in WIDE else "bf16")
        return cls(
            dtype, known_dtype("weight_dtype", weights), known_dtype("kv_dtype", kv)
        )

    def __str__(self) -> str:
        return "/".join((self.dtype, self.weight_dtype, self.kv_dtype))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Replicas of their own for prompts.

    Attributes
    ----------
    layout : ReplicaLayout
        Of each.
    per_replica : float
        How many there are to one replica for answers.
    """

    layout: ReplicaLayout
    per_replica: float

    def count(self, replicas: int) -> int:
        """Return how many go with so many replicas for answers."""
        return max(math.ceil(self.per_replica * replicas - 1e-9), 1)


@dataclass(frozen=True)
class Choice:
    """One way to run a replica.

    Attributes
    ----------
    layout : ReplicaLayout
        Of a replica; where prompts have their own, of one for answers.
    prompts : Prompts or None
        Replicas for prompts; None: each replica does both.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    precision: Precision
    layout: ReplicaLayout
    prompts: Prompts | None = None

    def devices(self, replicas: int) -> int:
        """Return the devices of so many replicas, those for prompts included."""
        own = self.layout.devices * replicas
        if self.prompts is None:
            return own
        return own + self.prompts.layout.devices * self.prompts.count(replicas)

    @property
    def devices_per_replica(self) -> float:
        """Devices of a replica with its share of those for prompts."""
        prompts = self.prompts
        more = 0.0 if prompts is None else prompts.per_replica * prompts.layout.devices
        return self.layout.devices + more

    def to_dict(self) -> dict[str, object]:
        """Return what tells it from others."""
        return {
            "system": self.system.id,
            "device": self.system.device.id,
            "engine": self.engine.id,
            "stack": self.stack.id,
            "dtype": self.precision.dtype,
            "weight_dtype": self.precision.weight_dtype,
            "kv_dtype": self.precision.kv_dtype,
            "max_num_seqs": self.engine.max_num_seqs,
            **{name: getattr(self.layout, name) for name in DEGREES},
            "devices_per_replica": self.layout.devices,
            **{
                f"prompts_{name}": None if self.prompts is None
                else getattr(self.prompts.layout, name)
                for name in DEGREES
            },
            "prompt_replicas_per_replica":
                None if self.prompts is None else self.prompts.per_replica,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.system.id}, {self.engine.id}, {self.precision}, {self.layout}, "
            f"{self.engine.max_num_seqs} sequences"
            + ("" if self.prompts is None else f", prompts on {self.prompts.layout}")
        )


@dataclass
class Space:
    """Enumerates deployments.

    Attributes
    ----------
    served : sequence of (SystemSpec, StackSpec, EngineSpec)
        Where and with what.
    precisions : sequence of Precision
        Those that a device lacks are left out there.
    held : dict of str to tuple of int or None
        Degrees to try; None is every one that makes sense.
    batches : tuple of int
        Limits on running requests to try beside the engine's own.
    disaggregated : bool
        Whether prompts may have replicas of their own.
    passed_over : list of str
        What cannot be, in words; filled while enumerating.
    """

    model: ModelSpec
    served: Sequence[tuple[SystemSpec, StackSpec, EngineSpec]]
    precisions: Sequence[Precision]
    held: dict[str, Degrees]
    batches: tuple[int, ...] = ()
    disaggregated: bool = True
    passed_over: list[str] = field(default_factory=list)

    def choices(self) -> Iterator[Choice]:
        """Yield every deployment that model and system allow."""
        for (system, stack, engine), precision in itertools.product(
            self.served, self.precisions
        ):
            try:
                dtype_on(system.device, precision.dtype)
            except HwsimError as error:
                self._pass(str(error))
                continue
            for layout in self._layouts(system):
                for served in self._engines(engine):
                    yield Choice(self.model, system, stack, served, precision, layout)

    def _engines(self, engine: EngineSpec) -> list[EngineSpec]:
        if not self.batches:
            return [engine]
        return [engine.model_copy(update={"max_num_seqs": n}) for n in self.batches]

    def _layouts(self, system: SystemSpec) -> Iterator[ReplicaLayout]:
        for tp, pp, attention_dp in itertools.product(
            self._tensor(system), self._stages(system), self._groups(system)
        ):
            if tp * pp * attention_dp > system.num_devices:
                if any(self.held.values()):
                    self._pass(
                        f"tp {tp} x pp {pp} x attention_dp {attention_dp} is more than "
                        f"the {system.num_devices} devices of {system.id}; name a "
                        "larger system or ask for less"
                    )
                continue
            for ep in self._experts(tp * attention_dp):
                try:
                    yield checked_layout(self.model, system, tp, pp, ep, attention_dp)
                except HwsimError as error:
                    if any(self.held.values()):
                        self._pass(str(error))

    def _tensor(self, system: SystemSpec) -> Iterable[int]:
        """All of a node's divisors: beyond it, links are an order slower."""
        node = system.networks[0].size if system.networks else 1
        return self.held.get("tp") or divisors(node)

    def _stages(self, system: SystemSpec) -> Iterable[int]:
        held = self.held.get("pp")
        if held:
            return held
        node = system.networks[0].size if system.networks else 1
        nodes = max(system.num_devices // node, 1)
        return [n for n in (1, 2, 4, 8) if n <= nodes]

    def _groups(self, system: SystemSpec) -> Iterable[int]:
        held = self.held.get("attention_dp")
        if held:
            return held
        if self.model.moe is None:
            return (1,)
        node = system.networks[0].size if system.networks else 1
        return divisors(node)

    def _experts(self, ranks: int) -> Iterable[int]:
        held = self.held.get("ep")
        if held:
            return held
        return (1,) if self.model.moe is None or ranks == 1 else (1, ranks)

    def _pass(self, why: str) -> None:
        if why not in self.passed_over:
            self.passed_over.append(why)


def degrees(name: str, values: int | Iterable[int] | None) -> Degrees:
    """Return degrees to hold a layout to."""
    if values is None:
        return None
    given = [values] if isinstance(values, int) else list(values)
    if not given:
        raise InputError(f"{name} has no values; give at least one")
    return tuple(positive_int(name, value) for value in given)

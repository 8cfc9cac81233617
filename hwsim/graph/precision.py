"""Dtypes of one run: arithmetic, activations, weights, cache, gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from hwsim.errors import UnknownNameError
from hwsim.specs.base import DTYPE_BYTES, DTYPES, WHOLE_MODEL_FORMATS

# Matrix units take these, but activations are kept in bf16 between operators.
QUANTISED = frozenset({"fp8", "int8", "fp6", "fp4", "int4"})
HALVES = frozenset({"bf16", "fp16"})
INDEX_BYTES = 8.0  # token ids are int64


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of one run and their bytes per value.

    Attributes
    ----------
    math : str
        Of the linear layers' products.
    act, weight, kv, grad : str
        As stored: activations and unquantised parameters, linear weights,
        KV cache, parameter gradients.
    table : str
        Embeddings, the output layer and other parameters that a quantised
        format may leave out.
    attention : str
        Of the products inside attention.
    vector : str
        Of norms and elementwise arithmetic.
    autocast : bool
        Parameters and the residual stream are kept in fp32; products cast
        their inputs to ``math``.
    """

    math: str
    act: str
    weight: str
    kv: str
    grad: str
    table: str
    attention: str
    vector: str
    autocast: bool = False

    @property
    def widened(self) -> bool:
        """Whether 16-bit products stand among activations in fp32 (no autocast)."""
        return self.act == "fp32" and self.math in HALVES and not self.autocast

    @property
    def stream(self) -> str:
        """Dtype of the residual stream, norms' results and lookups."""
        return "fp32" if self.autocast else self.act

    @property
    def parameter(self) -> str:
        """Dtype that unquantised parameters are trained in."""
        return "fp32" if self.autocast else self.act

    @property
    def quantised(self) -> bool:
        """Whether activations are quantised before each linear layer."""
        return self.math in QUANTISED


def widened(precision: Precision, wide: str) -> Precision:
    """Return the dtypes of a layer whose products may stay in 16 bits.

    ``wide`` as in :class:`~hwsim.specs.model_parts.LayerKind`.
    """
    stays = precision.quantised if wide == "narrow" else precision.math == wide
    if not stays:
        return precision
    return replace(precision, math=precision.act, weight=precision.act)


def known_dtype(name: str, *, weights: bool = False) -> str:
    """Return the dtype, or raise with the nearest known ones.

    Block formats (``q4_k_m``) store weights; nothing is computed in them.
    """
    known = tuple(DTYPE_BYTES) if weights else DTYPES
    if name not in known:
        raise UnknownNameError("dtype", str(name), known)
    return name


def stored(dtype: str) -> str:
    """Return the dtype that values of an arithmetic dtype are stored in.

    Examples
    --------
    >>> stored("tf32"), stored("fp8")
    ('fp32', 'fp8')
    """
    return "fp32" if dtype == "tf32" else dtype


@lru_cache(maxsize=256)
def resolve(
    dtype: str,
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    grad_dtype: str | None = None,
    *,
    autocast: bool = False,
    wide: bool = False,
) -> Precision:
    """Return the dtypes of a run from what the user gave.

    ``wide``: activations are fp32 where products are of 16 bit.

    Raises
    ------
    UnknownNameError
        If one of them is no dtype.
    """
    known_dtype(dtype)
    half = "bf16" if dtype in QUANTISED else stored(dtype)
    act = "fp32" if wide and dtype in HALVES else half
    weight = stored(known_dtype(weight_dtype or dtype, weights=True))
    kv = stored(known_dtype(kv_dtype or half))
    autocast = autocast and dtype in HALVES
    grad = stored(known_dtype(grad_dtype or ("fp32" if autocast else half)))
    table = weight if weight in WHOLE_MODEL_FORMATS else half
    attention = half if dtype in QUANTISED else dtype
    if dtype in QUANTISED and kv == "fp8":
        attention = kv
    vector = "fp64" if dtype == "fp64" else "fp32"
    return Precision(dtype, act, weight, kv, grad, table, attention, vector, autocast)

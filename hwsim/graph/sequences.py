"""Attention of few key heads on many ranks: sequences shared out among copies."""

from __future__ import annotations

from dataclasses import replace

from hwsim.graph.communicate import tp_collective
from hwsim.graph.context import attention_core
from hwsim.graph.core import Core, Parts
from hwsim.graph.writer import Writer
from hwsim.specs.model import LayerKind


def copies(w: Writer, c: Core, kind: LayerKind) -> int:
    """Return the ranks that take sequences of their own; 1 where heads are split.

    Ranks beyond the number of key heads would hold and read copies of all keys.
    """
    setting = w.setting
    if setting.training or not setting.stack.split_sequences or not c.seen.cached:
        return 1
    keys = setting.model.heads_at(kind).kv_heads
    ranks = max(setting.shard.tp // keys, 1)
    return ranks if _several(c.seen.batch) else 1


def _several(batch: object) -> bool:
    """Whether there are sequences to share out, at every point."""
    import numpy as np

    return bool(np.all(np.asarray(batch) > 1))


def by_sequence(w: Writer, parts: Parts, c: Core, ranks: int) -> int:
    """Append attention of a share of the sequences with the heads of all copies.

    References
    ----------
    .. [1] R. Pope et al., "Efficiently Scaling Transformer Inference", 2022,
       arXiv:2211.05102, section 3.3.
    """
    p, heads = c.seen, c.heads
    entering = float(heads.heads * heads.qk + heads.row)
    leaving = float(heads.heads * heads.v)
    x = _turned(w, f"{c.prefix}heads_scatter", parts.all, p.tokens * entering, ranks)
    seen = replace(p, batch=-(-p.batch // ranks))
    whole = replace(heads, heads=heads.heads * ranks)
    y = attention_core(w, Parts(x, x, x), replace(c, seen=seen, heads=whole))
    return _turned(w, f"{c.prefix}heads_gather", (y,), p.tokens * leaving, ranks)


def _turned(
    w: Writer, name: str, inputs: tuple[int, ...], numel: float, ranks: int
) -> int:
    """Append the all-to-all between heads and sequences."""
    act = w.setting.precision.act
    op = tp_collective(name, "all_to_all", numel * w.act_bytes, ranks, act)
    return w.put(op, inputs, "exchange", numel=numel, stream="tp")

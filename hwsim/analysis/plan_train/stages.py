"""Which layers each part of a pipeline holds, for many pipelines; quickly."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.graph.partition import layer_work, layers_per_stage
from hwsim.specs.model import ModelSpec


@dataclass(frozen=True)
class Stages:
    """Layers of each kind on ranks that differ.

    Attributes
    ----------
    counts : ndarray, shape (n_rank, n_kind)
        All chunks of a rank together: first, last, and those between that
        differ.
    total : ndarray, shape (n_kind,)
        On all ranks together.
    rank : tuple of int
        The earliest rank that each row stands for.
    both : ndarray, shape (n_pair, n_kind)
        As ``counts`` where each rank holds a stage from either end: the first
        rank, and those that differ from it.
    starts, both_start : tuple of bool
        Whether the decoder of an encoder-decoder model starts there, which
        needs an embedding: of ``counts``, of ``both``.
    """

    counts: FloatArray
    total: FloatArray
    rank: tuple[int, ...]
    both: FloatArray
    starts: tuple[bool, ...] = ()
    both_start: tuple[bool, ...] = ()


@dataclass
class StageMaker:
    """Divides one model's layers; remembers what it has divided."""

    model: ModelSpec
    seq: int
    _made: dict[tuple[int, int], Stages] = field(default_factory=dict)

    def stages(self, pp: int, vpp: int) -> Stages:
        """Return the ranks of a pipeline of ``pp * vpp`` parts."""
        if (pp, vpp) not in self._made:
            self._made[pp, vpp] = self._stages(pp, vpp)
        return self._made[pp, vpp]

    def _stages(self, pp: int, vpp: int) -> Stages:
        kinds = [kind for kind, _ in self.model.layer_groups()]
        place = np.array([kinds.index(k) for k in self.model.layer_kinds])
        ranks = np.zeros((pp, len(kinds) + 1))
        start, decoder = 0, self.decoder_start
        for part, count in enumerate(self.part_sizes(pp, vpp)):
            np.add.at(ranks[part % pp], place[start : start + count], 1.0)
            ranks[part % pp, -1] += start <= decoder < start + count
            start += count
        rows = {0: ranks[0]} if pp == 1 else {0: ranks[0], pp - 1: ranks[-1]}
        middle, earliest = np.unique(ranks[1:-1], axis=0, return_index=True)
        rows |= {int(r) + 1: one for r, one in zip(earliest, middle, strict=True)}
        counts = np.stack(list(rows.values()))
        pairs = (ranks + ranks[::-1])[: max(pp // 2, 1)]
        both = np.concatenate([pairs[:1], np.unique(pairs[1:], axis=0)])
        return Stages(
            counts[:, :-1], ranks[:, :-1].sum(axis=0), tuple(rows), both[:, :-1],
            tuple((counts[:, -1] > 0).tolist()), tuple((both[:, -1] > 0).tolist()),
        )  # fmt: skip

    @property
    def decoder_start(self) -> int:
        """The layer with which the decoder starts behind an encoder; -1: none."""
        behind = self.model.kind == "encoder_decoder"
        return self.model.encoder_layers if behind else -1

    def part_sizes(self, pp: int, vpp: int) -> list[int]:
        """Return how many layers each part holds, in pipeline order.

        Equals :func:`~hwsim.graph.partition.layers_per_stage`; where all
        layers are alike there is no need for its search.
        """
        layers, parts = len(self.model.layer_kinds), pp * vpp
        alike = len(self.model.layer_groups()) == 1
        if not alike or parts == 1 or layers % parts == 0 or parts > layers:
            found = layers_per_stage(self.model, pp, vpp, seq=self.seq)
            return [len(part) for part in found]
        return self._alike(layers, parts)

    def _alike(self, layers: int, parts: int) -> list[int]:
        """Least heaviest part; among those as many as can be in late parts."""
        model = self.model
        head = float(model.vocab * model.embedding_width * model.output_head)
        one = self._layer_work()

        def heaviest(last: int) -> float:
            before = ceil((layers - last) / (parts - 1)) * one
            return max(before, last * one + head)

        last = min(
            range(layers - parts + 1, 0, -1), key=lambda n: (heaviest(n), -n)
        )  # fmt: skip
        sizes, left = [last], layers - last
        for part in range(parts - 1, 0, -1):
            sizes.append(ceil(left / part))
            left -= sizes[-1]
        return sizes[::-1]

    def _layer_work(self) -> float:
        return layer_work(self.model, self.model.layer_kinds[0], self.seq)

"""Collectives that tensor-, context- and expert-parallel ranks begin and end with."""

from __future__ import annotations

from dataclasses import replace

from hwsim.graph.op import Collective, CollectiveName, Elementwise, Matmul, Op, Operand
from hwsim.graph.opgraph import Node
from hwsim.graph.record import Recorder, Rule
from hwsim.graph.setting import Setting
from hwsim.specs.base import DTYPE_BYTES

# Parts that Transformer Engine cuts a 16-bit product in that is reduced beside it
# (userbuffers, num_splits).
PIECES = 4
_ALL_TO_ALL: CollectiveName = "all_to_all"


class Communicator(Recorder):
    """Appends collectives to a block."""

    def exchange(self, name: str, rows: int, nbytes: float, numel: float) -> int:
        """Append the sending of rows among the ranks that share the experts.

        ``nbytes`` is that of a copy of each row to each of its experts. Serving
        engines send less: see ``exchange`` and ``sent_narrow`` of
        :class:`~hwsim.specs.stack.Fusion`.
        """
        setting, fusion = self.setting, self.setting.fusion
        moe, kind, fanout = setting.model.moe, _ALL_TO_ALL, 0
        if moe is not None and fusion.exchange != _ALL_TO_ALL:
            fanout = moe.experts_per_token
        leaves = name.startswith("dispatch")
        if leaves and self._sends_narrow():
            nbytes *= DTYPE_BYTES[setting.precision.math] / self.act_bytes
        if fusion.exchange == "gather" and setting.layout.ep <= fanout:
            kind = "all_gather" if leaves else "reduce_scatter"
            nbytes *= setting.layout.ep / (fanout * setting.layout.load)
        op = group_collective(setting, "ep", name, kind, nbytes)
        op = replace(
            op, fanout=fanout if kind == _ALL_TO_ALL else 0,
            beside=name.endswith("_beside"),
        )  # fmt: skip
        out = self.put(op, (rows,), "exchange", numel=numel, stream=exchange_stream(op))
        if name == "dispatch_exchange":
            self.count_rows(out)
        return out

    def map_of_rows(self, chosen: int, tokens: float) -> int:
        """Append what tells every rank which tokens go where, if its library asks.

        A byte for each token of all ranks and each expert is gathered, then scanned
        for the places of rows (Hybrid-EP; DeepEP's pull request 716).
        """
        setting, moe = self.setting, self.setting.model.moe
        mapped = setting.fusion.exchange == "mapped" and setting.training
        if not mapped or moe is None or setting.layout.ep == 1:
            return chosen
        numel = tokens * setting.layout.ep * moe.experts
        table = self.among(
            "ep", "routing_gather", "all_gather", (chosen,), numel, "none", numel
        )
        scan = Elementwise(
            name="routing_scan", dtype=setting.precision.vector, numel=numel,
            function="copy", flop_per_value=0.0,
            reads=(Operand("index", numel, "int8"),),
            writes=(Operand("index", 4.0 * tokens * moe.experts_per_token, "int32"),),
        )  # fmt: skip
        return self.put(scan, (table,), "none", numel=numel)

    def count_rows(self, value: int) -> None:
        """Let the host wait for the rows of each expert before it launches a node."""
        if self.setting.training and self.setting.stack.launch.counts:
            index = self.node_of[value]
            self.nodes[index] = replace(self.nodes[index], synced=True)

    def _sends_narrow(self) -> bool:
        """Whether rows are quantised before they are sent to their experts."""
        setting = self.setting
        if setting.training or not setting.precision.quantised:
            return False
        return setting.precision.math in setting.fusion.sent_narrow

    def among(
        self,
        axis: str,
        name: str,
        collective: CollectiveName,
        inputs: tuple[int, ...],
        nbytes: float,
        rule: Rule,
        numel: float,
    ) -> int:
        """Append a collective of the context- or expert-parallel group."""
        op = group_collective(self.setting, axis, name, collective, nbytes)
        return self.put(op, inputs, rule, numel=numel, stream=axis)

    def collective(
        self,
        name: str,
        collective: CollectiveName,
        inputs: tuple[int, ...],
        nbytes: float,
        rule: Rule = "none",
        numel: float = 0.0,
    ) -> int:
        """Append a collective of the tensor-parallel group."""
        act, dtype = self.setting.precision.act, self.dtype_of[inputs[0]]
        if dtype != act and rule != "none":
            nbytes = nbytes * (DTYPE_BYTES[dtype] / self.act_bytes)
        op = tp_collective(
            name, collective, nbytes, self.setting.shard.tp, dtype,
            direct=self.setting.stack.all_reduce == "direct",
        )  # fmt: skip
        out = self.put(op, inputs, rule, numel=numel, stream="tp", dtype=dtype)
        if rule == "enter" and inputs[0] in self._fed:
            self._fed.add(out)
        return out

    @property
    def sent_bytes(self) -> float:
        """Bytes of a value gathered for products: quantised before it is sent."""
        narrow = self.setting.precision.quantised and self.setting.fusion.quantize
        return self.math_bytes if narrow else self.act_bytes

    def sent_for(self, product: Op | None) -> float:
        """Return the bytes of a value that is gathered for one product."""
        plain = not isinstance(product, Matmul) or product.dtype == self.plain_math
        return self.act_bytes if plain else self.sent_bytes

    def enter(self, x: int, name: str, tokens: float, *, narrow: bool = True) -> int:
        """Begin a tensor-parallel region: gather the sequence if it is split.

        ``narrow``: what reads it are quantised products.
        """
        setting = self.setting
        if setting.shard.tp == 1 or not setting.training:
            return x
        numel = tokens * setting.model.hidden
        if not setting.sequence_parallel:
            out = self.alias(x, "enter", numel)
            if x in self._fed:
                self._fed.add(out)
            return out
        width = self.sent_bytes if narrow else self.act_bytes
        early = width != self.act_bytes
        if early:
            x = self.quantised(x, setting.outer(numel))
        out = self.collective(name, "all_gather", (x,), numel * width, "enter", numel)
        if early:
            self._fed.add(out)
        return out

    def quantised(self, x: int, numel: float) -> int:
        """Return the value in the matrix units' dtype, quantised once."""
        fusion, training = self.setting.fusion, self.setting.training
        known = fusion.quantize_activation and not self.setting.two_passes
        if fusion.quantize and (known or x in self._fed):
            return x
        if x not in self._quantised:
            dtype = self.setting.precision.math
            # The gradient of the weights reads columns where products read rows.
            copies = 2.0 if training and fusion.quantize else 1.0
            passes = 2.0 if self.setting.two_passes else 1.0
            op = Elementwise(
                name="quantize",
                dtype=self.setting.precision.vector,
                numel=numel,
                function="quantize",
                flop_per_value=3.0,
                reads=(self.act(numel * passes),),
                writes=(
                    Operand("activation", copies * numel * self.math_bytes, dtype),
                ),
            )
            self._quantised[x] = self.put(op, (x,), "through", numel=numel)
        return self._quantised[x]

    def leave(self, x: int, name: str, tokens: float) -> int:
        """End a tensor-parallel region: sum the devices' partial results."""
        setting = self.setting
        if setting.shard.tp == 1:
            return x
        numel = tokens * setting.model.hidden
        nbytes = numel * self.act_bytes
        kind: CollectiveName = (
            "reduce_scatter" if setting.sequence_parallel else "all_reduce"
        )
        out = self.collective(name, kind, (x,), nbytes, "leave", setting.outer(numel))
        if setting.stack.overlap.tp and not setting.stack.overlap.windows:
            self._beside_product(out, numel)
        return out

    def _beside_product(self, value: int, numel: float) -> None:
        """Let a collective start with the product whose parts it sends.

        Quantised products send each part to its owner, who sums what came; others
        are cut in ``PIECES``, and the last one is reduced after them.
        """
        index = self.node_of[value]
        node = self.nodes[index]
        source = self.nodes[node.deps[-1]] if node.deps else node
        op = node.op
        if not isinstance(source.op, Matmul) or not isinstance(op, Collective):
            return
        if not self.setting.rings:
            self.nodes[index] = Node(op, source.deps, node.stream)
            return
        ring = source.op.dtype != self.plain_math
        parts = op.group_size if ring else PIECES
        self.nodes[node.deps[-1]] = Node(
            replace(source.op, parts=parts), source.deps, source.stream
        )
        if ring:
            self.nodes[index] = Node(op, source.deps, node.stream)
            several = self.act(numel)
            total = self.act(self.setting.outer(numel))
            after = Node(
                Elementwise(
                    name="partial_sums", dtype=self.setting.precision.vector,
                    numel=numel, function="add", reads=(several,), writes=(total,),
                ),
                (index,),
            )  # fmt: skip
        else:
            last = 1.0 / PIECES
            self.nodes[index] = Node(_scaled(op, 1.0 - last), source.deps, node.stream)
            after = Node(_scaled(op, last), node.deps, node.stream)
        self.nodes.append(after)
        self.node_of[value] = len(self.nodes) - 1


def _scaled(op: Collective, share: float) -> Collective:
    """Return a collective of a share of its message."""
    moved = tuple(replace(o, nbytes=o.nbytes * share) for o in op.reads)
    return replace(op, message=op.message * share, reads=moved, writes=moved)


def exchange_stream(op: Collective) -> str:
    """Return the stream of a collective: what nothing waits for has its own."""
    return f"{op.axis}_beside" if op.beside else op.axis


def group_collective(
    setting: Setting,
    axis: str,
    name: str,
    collective: CollectiveName,
    nbytes: float,
) -> Collective:
    """Return a collective of the context-, data- or expert-parallel group."""
    layout, dtype = setting.layout, setting.precision.act
    moved = (Operand("activation", nbytes, dtype),)
    groups = {
        "cp": (layout.cp, layout.tp),
        "dp": (layout.dp, layout.tp),
        "ep": (layout.ep, layout.expert_stride),
    }
    group_size, stride = groups[axis]
    return Collective(
        name=name,
        dtype=dtype,
        collective=collective,
        message=nbytes,
        group_size=group_size,
        stride=stride,
        axis=axis,
        reads=moved,
        writes=moved,
    )


def tp_collective(
    name: str,
    collective: CollectiveName,
    nbytes: float,
    tp: int,
    dtype: str,
    *,
    direct: bool = False,
) -> Collective:
    """Return a collective of the tensor-parallel group.

    ``direct``: all-reduces are those of the engine, not of the library.
    """
    moved = (Operand("activation", nbytes, dtype),)
    return Collective(
        name=name,
        dtype=dtype,
        collective=collective,
        message=nbytes,
        group_size=tp,
        reads=moved,
        writes=moved,
        direct=direct and collective == "all_reduce",
    )

"""Transforms of backward blocks: accumulation, weight gradients apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.graph.op import Elementwise, Matmul, MoeExperts, Op, Operand
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.specs.base import DTYPE_BYTES


def accumulating(block: Block, apart: str | None = None) -> Block:
    """Return the block with gradients added to those in memory.

    What writes a parameter's gradient reads the one that is there.

    Parameters
    ----------
    apart : str, optional
        Dtype of fresh gradients that kernels of their own add at the end.
    """
    if apart is not None:
        return _added_apart(block, apart)
    nodes = [
        node.behind(node.deps, _adding(node.op))
        if node.op.phase == "backward"
        else node
        for node in block.nodes
    ]
    return Block(block.name, tuple(nodes), block.repeat, block.output)


def _adding(op: Op) -> Op:
    stored = tuple(o for o in op.writes if o.role == "gradient")
    if not stored:
        return op
    return replace(op, reads=(*op.reads, *stored))


def _added_apart(block: Block, dtype: str) -> Block:
    """Return the block with the additions of its gradients at its end.

    The framework's own engine issues them: the host spends one launch on all.
    """
    kept = [
        o for n in block.nodes if n.op.phase == "backward"
        for o in n.op.writes if o.role == "gradient"
    ]  # fmt: skip
    if not kept:
        return block
    numel = sum(o.nbytes / DTYPE_BYTES[o.dtype] for o in kept)
    fresh = Operand("gradient", numel * DTYPE_BYTES[dtype], dtype)
    total = Operand("gradient", sum(o.nbytes for o in kept), kept[0].dtype)
    op = Elementwise(
        name="accumulate_gradients",
        dtype="fp32",
        numel=numel,
        function="add",
        reads=(fresh, total),
        writes=(total,),
        phase="backward",
        kernels=1,
    )
    nodes = [n.behind(n.deps, _fresh(n.op, dtype)) for n in block.nodes]
    last = max(i for i, n in enumerate(nodes) if n.stream == COMPUTE)
    nodes.append(Node(op, (last,)))
    return Block(block.name, tuple(nodes), block.repeat, block.output_index)


def _fresh(op: Op, dtype: str) -> Op:
    """Return the operator with gradients of parameters in a dtype."""
    if op.phase != "backward" or not any(o.role == "gradient" for o in op.writes):
        return op
    width = DTYPE_BYTES[dtype]
    writes = tuple(
        Operand(o.role, o.nbytes / DTYPE_BYTES[o.dtype] * width, dtype)
        if o.role == "gradient" else o
        for o in op.writes
    )  # fmt: skip
    if isinstance(op, Matmul):
        return replace(op, writes=writes, c_bytes=width)
    return replace(op, writes=writes)


def divided(block: Block) -> tuple[Block | None, Block | None]:
    """Return the block's input gradients and its weight gradients.

    A zero-bubble schedule plays the second ones later. Both together do what
    the block does. What only weight gradients need (the second gather of a
    divided sequence) goes with them. Norms make both gradients in one pass
    and stay with the inputs'.

    References
    ----------
    .. [1] P. Qi et al., "Zero Bubble Pipeline Parallelism", 2023,
       arXiv:2401.10241, section 2.
    """
    nodes = _experts_apart(block.nodes)
    later = _weight_nodes(nodes)
    if not later:
        return block, None
    output = _moved(block.nodes, nodes, block.output_index)
    now = [i for i in range(len(nodes)) if i not in later]
    return (
        _part(block, nodes, now, output),
        _part(block, nodes, sorted(later), None),
    )


def _moved(old: Sequence[Node], new: Sequence[Node], index: int) -> int:
    """Return where the node that stood at ``index`` is now (its first half)."""
    extra = sum(
        isinstance(n.op, MoeExperts) and n.op.phase == "backward" for n in old[:index]
    )
    return index + extra if len(new) > len(old) else index


def _experts_apart(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes with experts' gradients as two operators."""
    place: list[int] = []
    out: list[Node] = []
    for node in nodes:
        deps = tuple([place[d] for d in node.deps])
        place.append(len(out))
        op = node.op
        both = isinstance(op, MoeExperts) and op.phase == "backward" and op.passes > 1
        if not both:
            out.append(node if deps == node.deps else node.behind(deps))
            continue
        assert isinstance(op, MoeExperts)
        first, second = expert_halves(op)
        out += [node.behind(deps, first), node.behind(deps, second)]
    return out


def expert_halves(op: MoeExperts) -> tuple[MoeExperts, MoeExperts]:
    """Return the gradients of the experts' inputs and of their weights."""
    stored = [o for o in op.writes if o.role == "gradient"]
    adds = [o for o in op.reads if o.role == "gradient"]
    # Weight gradients need what forward kept and the output's gradients; the
    # gradients inside are made with the inputs' and read again.
    plain = [o for o in op.reads if o.role == "activation"]
    kept = plain[: len(plain) // 2]
    rest = [o for o in op.reads if o not in kept and o.role != "gradient"]
    rest += [o for o in plain[len(plain) // 2 :] if o in kept]
    first = replace(
        op,
        name=op.name.replace("gradient", "input_gradient"),
        reads=tuple(rest),
        writes=tuple(o for o in op.writes if o.role != "gradient"),
        passes=1.0,
        kernels=op.kernels // 2 + 1,
    )
    second = replace(
        op,
        name=op.name.replace("gradient", "weight_gradient"),
        reads=(*kept, *adds),
        writes=tuple(stored),
        passes=1.0,
        kernels=op.kernels // 2,
    )
    return first, second


def _weight_nodes(nodes: Sequence[Node]) -> set[int]:
    """Return the nodes that nothing but weight gradients needs."""
    later = {i for i, node in enumerate(nodes) if _makes_weights(node.op)}
    users: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        for dep in node.deps:
            users.setdefault(dep, []).append(i)
    for i in range(len(nodes) - 1, -1, -1):
        needed = users.get(i, [])
        if nodes[i].stream == COMPUTE or not needed:
            continue
        again = nodes[i].op.name == "input_gather"
        if again and all(u in later for u in needed):
            later.add(i)
    return later | {
        i for i, n in enumerate(nodes)
        if n.op.name.endswith("gradient_reduce") and n.stream == "dp"
    }  # fmt: skip


def _makes_weights(op: Op) -> bool:
    if op.phase != "backward":
        return False
    if isinstance(op, Matmul | MoeExperts):
        if op.name.endswith("weight_gradient"):
            return True
        return any(o.role == "gradient" for o in op.writes)
    if isinstance(op, Elementwise):
        return any(o.role == "gradient" for o in op.writes)
    return False


def _part(
    block: Block, nodes: Sequence[Node], chosen: Sequence[int], output: int | None
) -> Block | None:
    if not chosen:
        return None
    place = {old: new for new, old in enumerate(chosen)}
    made = tuple(
        nodes[i].behind(tuple([place[d] for d in nodes[i].deps if d in place]))
        for i in chosen
    )
    suffix = "" if output is not None else "_weights"
    at = place[output] if output is not None and output in place else len(made) - 1
    return Block(f"{block.name}{suffix}", made, block.repeat, at)

"""One layer: norms and residual sums around attention and feed-forward."""

from __future__ import annotations

from collections.abc import Callable

from hwsim.graph.attention import attention, cross_attention
from hwsim.graph.feedforward import feed_forward
from hwsim.graph.writer import INPUT, Pass, Writer
from hwsim.specs.model import LayerKind


def post_norm(w: Writer) -> bool:
    """Whether norms follow the residual sums: then none is left for the end."""
    model = w.setting.model
    return not model.final_norm and model.norms_per_layer > 0


class _Residual:
    """The residual stream; a fused norm adds the waiting branch itself."""

    def __init__(self, w: Writer, p: Pass) -> None:
        self.w, self.rows = w, w.setting.outer(p.tokens)
        self.hidden = w.setting.model.hidden
        self.value = INPUT
        self.post = post_norm(w)
        self.fused = w.setting.fusion.residual_norm
        # What enters a layer is the branch before it, not yet added.
        self.waiting = self.fused and not self.post and _leading_norm(w)
        self.branch = INPUT

    def norm(self, name: str) -> int:
        """Append a norm of the stream; return the normed value."""
        if self.waiting:
            inputs = (self.branch, self.value)
            self.value = self.w.norm(
                name, inputs, self.rows, self.hidden, fused_add=True
            )
            self.waiting = False
            return self.value
        return self.w.norm(name, (self.value,), self.rows, self.hidden)

    def add(self, name: str, branch: int, norm: str = "") -> None:
        """Add a branch to the stream, now or in the norm that comes next."""
        w, numel = self.w, self.rows * self.hidden
        if self.fused and norm and self.post:
            inputs = (branch, self.value)
            self.value = w.norm(norm, inputs, self.rows, self.hidden, fused_add=True)
            return
        if self.fused and not self.post and _leading_norm(w):
            self.waiting, self.branch = True, branch
            return
        mask = numel if w.setting.dropout else 0.0
        if mask and not w.setting.fusion.bias:
            branch = w.elementwise(
                f"{name}_dropout", "dropout", (branch,), numel=numel, reads=numel,
                rule="drop", mask=mask,
            )  # fmt: skip
            mask = 0.0
        self.value = w.elementwise(
            f"{name}_add", "add", (branch, self.value), numel=numel,
            reads=2 * numel, writes=numel, rule="add", mask=mask,
        )  # fmt: skip
        if norm and self.post:
            self.value = w.norm(norm, (self.value,), self.rows, self.hidden)

    def outputs(self) -> tuple[int, ...]:
        """Values that the layer hands on, the one to wait for first."""
        return (self.branch, self.value) if self.waiting else (self.value,)


def _leading_norm(w: Writer) -> bool:
    return w.setting.model.norms_per_layer > 0


def layer(w: Writer, p: Pass, kind: LayerKind) -> tuple[int, ...]:
    """Append one layer; return the values that it hands on."""
    model = w.setting.model
    stream = _Residual(w, p)
    if model.parallel_block:
        _parallel(w, p, kind, stream)
    else:
        _sublayer(stream, "attention", 0, lambda x: attention(w, x, p, kind), p)
        if kind.role == "decoder" and model.kind == "encoder_decoder":
            _sublayer(stream, "cross", 0, lambda x: cross_attention(w, x, p), p)
        _sublayer(stream, "ffn", 1, lambda x: feed_forward(w, x, p, kind), p)
    return stream.outputs()


def _sublayer(
    stream: _Residual, name: str, place: int, body: Callable[[int], int], p: Pass
) -> None:
    """Append a branch; ``place`` says which of a layer's norms is its own."""
    w, norms = stream.w, stream.w.setting.model.norms_per_layer
    own = norms > place
    if stream.post:
        branch = w.leave(body(stream.value), f"{name}_reduce", p.tokens)
        stream.add(name, branch, f"{name}_norm" if own else "")
        return
    x = stream.norm(f"{name}_norm") if own else stream.value
    branch = w.leave(body(x), f"{name}_reduce", p.tokens)
    for extra in range(norms - 2 - place):
        # Norms beyond two stand behind the branches in turn.
        if extra % 2 == 0 and name != "cross":
            suffix = "" if extra == 0 else f"_{extra // 2}"
            branch = w.norm(
                f"{name}_post_norm{suffix}", (branch,), stream.rows, stream.hidden,
                to_linear=False,
            )  # fmt: skip
    stream.add(name, branch)


def _parallel(w: Writer, p: Pass, kind: LayerKind, stream: _Residual) -> None:
    """Append attention and feed-forward side by side; one reduction for both."""
    model = w.setting.model
    norms = model.norms_per_layer
    x = stream.norm("norm") if norms else stream.value
    y = x
    if norms > 1:
        y = w.norm("ffn_norm", (stream.value,), stream.rows, stream.hidden)
    first = attention(w, x, p, kind)
    second = feed_forward(w, y, p, kind)
    numel = p.tokens * model.hidden
    total = w.elementwise(
        "branches_add", "add", (first, second), numel=numel, reads=2 * numel,
        writes=numel, rule="through",
    )  # fmt: skip
    stream.add("layer", w.leave(total, "layer_reduce", p.tokens))

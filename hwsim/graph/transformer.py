"""One layer: norms and residual sums around attention and feed-forward."""

from __future__ import annotations

from collections.abc import Callable

from hwsim.graph.attention import attention, cross_attention
from hwsim.graph.feedforward import feed_forward
from hwsim.graph.setting import Pass
from hwsim.graph.statespace import state_space
from hwsim.graph.writer import INPUT, Writer
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

    def input(self, norm: str) -> int:
        """Return what a branch reads: the stream, normed if ``norm`` is named."""
        if norm and not self.post:
            return self.norm(norm)
        if self.waiting:
            self._sum("residual", self.branch)
        return self.value

    def add(self, name: str, branch: int, norm: str) -> None:
        """Add a branch to the stream, now or in the norm that comes next."""
        if self.fused and norm and self.post:
            inputs = (branch, self.value)
            self.value = self.w.norm(
                norm, inputs, self.rows, self.hidden, fused_add=True
            )
        elif self.fused and not self.post and _leading_norm(self.w):
            self.waiting, self.branch = True, branch
        else:
            self._sum(name, branch)
            if norm and self.post:
                self.value = self.norm(norm)

    def _sum(self, name: str, branch: int) -> None:
        w, numel = self.w, self.rows * self.hidden
        mask = numel if w.setting.dropout else 0.0
        if mask and not w.setting.fusion.bias:
            branch = w.elementwise(
                f"{name}_dropout", "dropout", (branch,), numel=numel, reads=numel,
                rule="drop", mask=mask,
            )  # fmt: skip
            mask = 0.0
        self.value = w.elementwise(
            f"{name}_add", "add", (branch, self.value), numel=numel,
            reads=2 * numel, writes=numel, rule="add", mask=mask, onto_stream=True,
        )  # fmt: skip
        self.waiting = False

    def outputs(self) -> tuple[int, ...]:
        """Values that the layer hands on, the one to wait for first."""
        return (self.branch, self.value) if self.waiting else (self.value,)


def _leading_norm(w: Writer) -> bool:
    return w.setting.model.norms_per_layer > 0


def layer(w: Writer, p: Pass, kind: LayerKind) -> tuple[int, ...]:
    """Append one layer; return the values that it hands on."""
    model = w.setting.model
    stream, norms = _Residual(w, p), model.norms_per_layer
    if model.parallel_block:
        _parallel(w, p, kind, stream)
        return stream.outputs()
    cross = kind.role == "decoder" and model.kind == "encoder_decoder"
    # Norms beyond two stand behind attention and feed-forward in turn.
    more = max(norms - 2, 0)
    first = {"attention": _attend, "ssm": _scan}.get(kind.mixer)
    if first is not None:
        name = "attention" if kind.mixer == "attention" else "ssm"
        _sublayer(stream, p, kind, name, first, own=norms > 0, more=(more + 1) // 2)
    if cross:
        _sublayer(stream, p, kind, "cross", _attend_across, own=True)
    if kind.feed:
        alone = kind.mixer == "none"
        own, behind = norms > (0 if alone else 1), (more + alone) // 2
        _sublayer(stream, p, kind, "ffn", feed_forward, own=own, more=behind)
    return stream.outputs()


def _attend(w: Writer, x: int, p: Pass, kind: LayerKind) -> tuple[int, bool]:
    return attention(w, x, p, kind), False


def _attend_across(w: Writer, x: int, p: Pass, _: LayerKind) -> tuple[int, bool]:
    return cross_attention(w, x, p), False


def _scan(w: Writer, x: int, p: Pass, _: LayerKind) -> tuple[int, bool]:
    return state_space(w, x, p), False


def _sublayer(
    stream: _Residual,
    p: Pass,
    kind: LayerKind,
    name: str,
    body: Callable[[Writer, int, Pass, LayerKind], tuple[int, bool]],
    *,
    own: bool,
    more: int = 0,
) -> None:
    """Append a branch with its ``own`` norm and ``more`` behind it."""
    norm = f"{name}_norm" if own else ""
    branch, whole = body(stream.w, stream.input(norm), p, kind)
    if not whole:
        branch = stream.w.leave(branch, f"{name}_reduce", p.tokens)
    stream.add(name, _norms_behind(stream, branch, name, more), norm)


def _norms_behind(stream: _Residual, branch: int, name: str, count: int) -> int:
    for index in range(count):
        label = f"{name}_post_norm" + (f"_{index}" if index else "")
        branch = stream.w.norm(
            label, (branch,), stream.rows, stream.hidden, to_linear=False
        )
    return branch


def _parallel(w: Writer, p: Pass, kind: LayerKind, stream: _Residual) -> None:
    """Append attention and feed-forward side by side; one reduction for both."""
    model = w.setting.model
    norms = model.norms_per_layer
    x = y = stream.norm("norm") if norms else stream.input("")
    if norms > 1:
        y = w.norm("ffn_norm", (stream.value,), stream.rows, stream.hidden)
    first = attention(w, x, p, kind)
    second, whole = feed_forward(w, y, p, kind)
    tokens = 1.0 * p.tokens
    if whole:
        first, tokens = w.leave(first, "attention_reduce", p.tokens), stream.rows
    numel = tokens * model.hidden
    total = w.elementwise(
        "branches_add", "add", (first, second), numel=numel, reads=2 * numel,
        writes=numel, rule="through",
    )  # fmt: skip
    branch = total if whole else w.leave(total, "layer_reduce", p.tokens)
    stream.add("layer", _norms_behind(stream, branch, "layer", norms - 2), "")

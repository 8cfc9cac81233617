"""Software stacks: what a framework fuses, overlaps, launches and adds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hwsim.specs.base import (
    CatalogSpec,
    Count,
    Fraction,
    Identifier,
    Name,
    Seconds,
    Spec,
)


class LaunchPolicy(Spec):
    """How kernels reach the device.

    Attributes
    ----------
    mode : str
        ``eager``: the host issues each kernel; ``graph``: a captured graph is
        replayed, only the device-side gap is left.
    host_time : float or None
        Host time per kernel issue including the framework; the device's own
        figure is used where it is larger. [s]
    backward_time : float or None
        Training only: host time per kernel of the backward pass, where the
        framework issues it in another way (PyTorch's autograd engine runs through
        it without Python); None: ``host_time``. [s]
    step_overhead : float
        Host time per step or per token that nothing hides (scheduler,
        sampling, data loading). [s]
    token_overhead : float
        The same for decode steps alone: search or sampling over the vocabulary,
        the loop that asks for the next token. [s]
    prompt_time : float
        ``graph`` mode only: host time to issue one operator of a pass over prompts,
        which no captured graph holds, with all the framework does around it. [s]
    captured_tokens : int
        Passes over prompts of up to so many tokens are captured all the same.
    collective : float
        How much longer a collective takes than in the releases that
        calibrations rest on: older protocols, launches one by one. [s]
    experts : float
        Training only: host time to issue the forward pass of one layer's routed
        experts (router, sort, exchange, products and casts of each expert)
        beyond ``host_time`` of its kernels; backward takes twice as long. [s]
    products : float
        Training only: host time of the framework's module around a product or fused
        attention, beyond ``host_time``; its backward takes as long. Narrow products
        take twice as long. [s]
    collectives_wait : bool
        Training only: the host waits for each tensor-parallel collective, so that
        it and launches come one after the other.
    counts : bool
        Training only: how many rows go to each expert is known on the host, which
        waits for it in every layer (mixtures that drop no token).
    """

    mode: Literal["eager", "graph"] = "graph"
    host_time: Seconds | None = None
    backward_time: Seconds | None = None
    step_overhead: Seconds = 0.0
    token_overhead: Seconds = 0.0
    prompt_time: Seconds = 0.0
    captured_tokens: Annotated[int, Field(ge=0, le=10**7, strict=True)] = 0
    collective: Seconds = 0.0
    experts: Seconds = 0.0
    products: Seconds = 0.0
    collectives_wait: bool = False
    counts: bool = False


class Fusion(Spec):
    """Which operators run as one kernel.

    Attributes
    ----------
    attention : str
        ``fused``: scores stay on chip (FlashAttention class); ``unfused``: they
        go through memory between separate products and softmax.
    softmax : bool
        Unfused attention only: scaling, mask and softmax are one kernel.
    softmax_multiple : int
        With ``softmax``: that kernel takes sequences times heads in multiples of so
        many; else its parts are kernels of their own, in fp32.
    grouped : bool
        Unfused attention only: query heads that share keys stand as rows of one
        product; else keys and values are repeated in memory.
    wide_scores : bool
        Unfused attention only: scores and probabilities are kept in fp32 and
        cast before they meet the values.
    qkv, gate_up : bool
        One product makes queries, keys and values; gate and up projections.
    residual_norm : bool
        The residual is added in the norm that follows.
    activation : bool
        The activation takes the bias, or the gate's product, along.
    gelu : bool
        GELU is one kernel; else its tanh form is written in a framework's
        operators, one kernel each.
    rotary : bool
        One kernel, or none where the attention kernel rotates; else a
        framework's operators one by one.
    rotary_scaled : bool
        That kernel can scale what it rotates (YaRN's magnitude); else such models
        rotate in a framework's operators.
    tokens_first : bool
        Training: values lie token by token, those of all sequences side by side
        (Megatron); what takes whole sequences has them copied into order and back.
    bias : bool
        Biases are added in the product's epilogue; dropout with the residual.
    cross_entropy, optimizer : bool
        Loss from logits in one kernel; all parameters' update in one pass.
    accumulate : bool
        Products of weight gradients add to what earlier microbatches left; else
        each gradient is written by itself and added by a kernel of its own.
    loss : str
        Cross-entropy that is not one kernel: ``framework``, cast, log-softmax and
        gather; ``vocab_parallel``, Megatron's for a vocabulary that is shared out,
        in place and one kernel an operation.
    stored : str
        Weights stored narrower than they are multiplied, in products of more than
        32 rows: ``widened`` inside the product; ``copied``, widened in memory by a
        kernel of their own, for a library that knows one dtype.
    quantize : bool
        The operator before a product writes its quantised input; gradients are
        cast by kernels of their own.
    quantize_activation : bool
        With ``quantize``: attention and activations do so too; else norms alone, and
        inputs of other products are cast by kernels of their own.
    experts : str
        Routed experts: ``fused``, one serving kernel that sorts, multiplies and
        activates; ``library``, grouped products as good as dense ones, after
        rows were sorted, that cast what they read and write; ``each``, one
        product per expert, and narrow inputs and gradients are cast by kernels
        of their own, along rows and columns.
    exchange : str
        How rows reach the experts of other ranks: ``all_to_all`` sends a copy to
        each expert, and ranks with several experts sort what they receive;
        ``once`` sends one copy to each rank, and between nodes one to each node
        (DeepEP); ``mapped`` does so after a map of all ranks' tokens and experts has
        been gathered (Hybrid-EP); ``gather`` does so where there are more ranks than
        a row has experts, and else gathers the rows of all and reduces their sums.
    sent_narrow : tuple of str
        Dtypes of products whose inputs are quantised before they are sent to the
        experts of other ranks.
    """

    attention: Literal["fused", "unfused"] = "fused"
    softmax: bool = False
    softmax_multiple: Count = 1
    grouped: bool = False
    wide_scores: bool = False
    qkv: bool = True
    gate_up: bool = True
    residual_norm: bool = True
    activation: bool = True
    gelu: bool = True
    rotary: bool = True
    rotary_scaled: bool = True
    tokens_first: bool = False
    bias: bool = True
    cross_entropy: bool = False
    optimizer: bool = True
    accumulate: bool = True
    loss: Literal["framework", "vocab_parallel"] = "framework"
    stored: Literal["widened", "copied"] = "widened"
    quantize: bool = False
    quantize_activation: bool = True
    experts: Literal["fused", "library", "each"] = "fused"
    exchange: Literal["all_to_all", "once", "mapped", "gather"] = "all_to_all"
    sent_narrow: tuple[Name, ...] = ()


class Overlap(Spec):
    """What may run beside compute.

    Attributes
    ----------
    dp : bool
        Gradient reduction and parameter gathering of data parallelism.
    parameters : bool
        With ``dp`` and ZeRO 1 or 2: updated parameters are gathered beside the
        forward pass that follows, a layer ahead; else at the end of the step.
    tp : bool
        Tensor-parallel collectives, cut up beside their products.
    windows : bool
        Products go part by part beside the tensor-parallel gathers before them as
        well, forward and backward, and add up the sums after them (XLA).
    ring : bool
        With ``tp`` and a divided sequence: gathers, too, go round beside the products
        that read them, and products are launched in parts (userbuffers of
        Transformer Engine). Else only reductions are beside products.
    backward_prefetch : bool
        Sharded parameters of a layer are fetched while the backward of the one
        before it runs, not after it (FSDP: BACKWARD_PRE against POST). After it
        means behind the reduction of its gradients, on the same communicator.
    ep : float
        Training with several microbatches: share of the time in which rows are
        exchanged that another microbatch computes (interleaved forward and
        backward, DualPipe); what kernels that send take of the device's units
        is left. [1]
    beside : bool
        Decode steps run short kernels on a second stream: shared experts beside
        routed ones, the norm of latent keys beside queries.
    """

    dp: bool = True
    parameters: bool = False
    tp: bool = False
    windows: bool = False
    ring: bool = False
    backward_prefetch: bool = True
    ep: Fraction = 0.0
    beside: bool = False


class HeldPolicy(Spec):
    """In what form training holds parameters.

    Attributes
    ----------
    masters : bool
        Shards of parameters are their fp32 masters, cast as they are gathered, and
        their gradients are fp32 (FSDP); else a 16-bit shard stands beside them.
    narrow : bool
        Parameters of fp8 products are held in fp8 alone, as stored and transposed;
        else a 16-bit copy stands beside both.
    gathered : str
        What is gathered at one time of sharded parameters: a ``layer`` and the next,
        or a ``product``'s and the next (XLA).
    results : bool
        What experts give is kept until backward, for the gradient of its weight in
        the sum; else that weight multiplies what enters their last product.
    activations : bool
        What an activation that is a kernel of its own gives is kept as well, for its
        gate's gradient; else it is made again (checkpoints by operator).
    losses : int
        Copies of the logits in fp32 that a framework's loss makes and holds at once:
        log-softmax and two gradients; 0: compiled, it needs the logits' gradient.
    """

    masters: bool = False
    narrow: bool = False
    gathered: Literal["layer", "product"] = "layer"
    results: bool = True
    activations: bool = True
    losses: Annotated[int, Field(ge=0, le=10, strict=True)] = 3


# Families that intervals know by another name.
_FAMILIES = {"matmul": "gemm", "vector": "elementwise", "scan": "elementwise"}


class CostModels(Spec):
    """Cost models registered under ``hwsim.cost_models``, by kind of operator.

    Each stands in for hwsim's own; None keeps that.
    """

    matmul: Name | None = None
    attention_prefill: Name | None = None
    attention_decode: Name | None = None
    moe: Name | None = None
    scan: Name | None = None
    vector: Name | None = None
    collective: Name | None = None

    def of(self, kind: str) -> str | None:
        """Return the name of the model of a kind; None: hwsim's own."""
        return getattr(self, kind, None)


class ArchitectureRate(Spec):
    """Rate of a stack's kernels over the best ones, on one architecture."""

    architecture: Identifier
    rate: Annotated[float, Field(gt=0.0, le=1.0)]


class StackSpec(CatalogSpec):
    """A software stack: few parameters, each a mechanism with a source.

    Attributes
    ----------
    autocast : bool
        16-bit training keeps parameters, gradients and the residual stream in
        fp32; each product casts its inputs, and softmax, norms and losses run
        in fp32 (PyTorch's automatic mixed precision).
    gradients : str or None
        ``fp32``: gradients are accumulated, and reduced among data-parallel
        devices, in fp32; None: in the dtype of the parameters.
    gradient_passes : int
        How often the whole buffer of gradients is read or written beside its
        reduction: checked for values that are no numbers, scaled, zeroed.
    recompute : str
        Layers recomputed in full: ``whole``, the forward pass runs again; ``needed``,
        a compiler leaves out what backward does not read, as the last product
        before a residual sum.
    loss_metrics : int
        Training metrics that read all logits at each microbatch beside the loss,
        each a softmax that is not fused.
    padded_vocabulary : bool
        Training: words are added until rows of logits are aligned, also where one
        device has them all; else the product that makes them may have odd rows.
    all_reduce : str
        Tensor-parallel sums: ``library``, by the collective library; ``direct``, by
        the engine's own kernels where those are faster.
    split_sequences : bool
        Inference: tensor-parallel ranks beyond the number of key heads share out
        sequences rather than hold copies of all keys.
    gather_weights : bool
        Inference: prompts are shared out whole, and each layer's weights gathered,
        where that is faster than splitting products.
    held : HeldPolicy
        In what form training holds parameters.
    memory_reserve : float
        Share of device memory that the context, workspaces, communication
        buffers and fragmentation keep from the model.
    sampling_bytes : float
        Bytes per sequence and word of the vocabulary that a serving engine sets
        aside for sampling: logits, probabilities and their sorted copies. [B]
    tensor_scales : float
        Rate of narrow products (fp8, fp4) with one scale per tensor over those
        that calibrations rest on, which have one per row. [1]
    stored_int8 : float
        Share of the int8 peak that products of weights stored narrower reach on
        devices that multiply faster in it than in 16 bit, activations being
        quantised for them; 0: such weights are widened. [1]
    wide_activations : bool
        Activations are fp32 between kernels, in inference in 16 bit; a library's
        products of more than 32 rows take casts of them, and give 16 bit.
    half_sums : bool
        16-bit products are summed in 16 bit, which graphics cards do faster.
    matmul_derate, attention_derate : float
        Rate of this stack's kernels over the best known kernels for the
        device generation (1 = as good).
    attention_derates : tuple of ArchitectureRate
        The same on top, of attention on the devices of one architecture: kernels
        written for an earlier one (FlashAttention 2 on Hopper).
    costs : CostModels
        Names of cost models that stand in for hwsim's own.
    """

    launch: LaunchPolicy = LaunchPolicy()
    fusion: Fusion = Fusion()
    overlap: Overlap = Overlap()
    autocast: bool = False
    gradients: Literal["fp32"] | None = None
    recompute: Literal["whole", "needed"] = "whole"
    gradient_passes: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    loss_metrics: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    tensor_scales: Annotated[float, Field(ge=1.0, le=2.0)] = 1.0
    stored_int8: Fraction = 0.0
    wide_activations: bool = False
    half_sums: bool = False
    matmul_derate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    attention_derate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    attention_derates: tuple[ArchitectureRate, ...] = ()
    split_sequences: bool = False
    gather_weights: bool = False
    held: HeldPolicy = HeldPolicy()
    memory_reserve: Fraction = 0.08
    sampling_bytes: Annotated[float, Field(ge=0.0, le=1024.0)] = 0.0
    padded_vocabulary: bool = False
    all_reduce: Literal["library", "direct"] = "library"
    costs: CostModels = CostModels()

    @property
    def replaced(self) -> tuple[str, ...]:
        """Operator families that a registered cost model predicts."""
        kinds = (k for k in CostModels.model_fields if self.costs.of(k) is not None)
        return tuple(sorted({_FAMILIES.get(kind, kind) for kind in kinds}))

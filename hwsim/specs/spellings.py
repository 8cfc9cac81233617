"""Names as papers, drivers, hubs and logs print them, and what catalogs call them.

A catalog looks a name up as it stands first; only an unknown one is tried in these
spellings, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Words around a device's name that do not change it.
_AROUND = re.compile(
    r"\b(nvidia|amd|intel|google|apple|cloud|aws|azure|gcp|habana|tesla|quadro|geforce"
    r"|instinct|radeon|dgx|hgx|xilinx|huawei|gpus?|accelerators?|chips?|devices?|hpus?"
    r"|cpus?|nodes?|sockets?|superchip|tensor core|ampere|(?<!grace )hopper|volta"
    r"|turing|edition|generation|soc|processors?|aib|oam|ac|hbm\d?e?|gddr\d?x?|vram|unified|memory"
    r"|nvl\d+|rev-?\d|founders|titanium|ai|mac studio|mac mini|mac pro|macbook pro"
    r"|macbook air|imac|[12]s|dual|nps\d|[sc]px|\d+ ?w|hpc)\b"
    r"|\b(?:x\s*\d+|\d+\s*x)(?=\s|$)|\(r\)|\(tm\)|[()\[\],/@®™]"
)
_COUNT = re.compile(r"^\d+\s*[x×*]\s*-?(?=[a-z])")
_SLIPS = (
    (re.compile(r"\bsmx(?=\d?\b)"), "sxm"),
    (re.compile(r"\b(pcie)[ -]?gen ?\d"), r"\1"),
)
_CORES = re.compile(r"[-\s]*\b\d+[-\s]*(?:cores?|c|cu)\b(?:[-\s]*gpus?)?|[-\s]gpus?\b")
_PACKAGE = re.compile(
    r"-(gpu|accelerator|generation|edition|ac|oam|rev-?\d|\d+x|x\d+)$"
)
_CODENAMES = {
    "trillium": "tpu-v6e", "ironwood": "tpu-v7x", "tpu-trillium": "tpu-v6e",
    "tpu-ironwood": "tpu-v7x", "hl-225": "gaudi2",
    "hl-325": "gaudi3", "trn2": "trainium2", "trn2.48xlarge": "trainium2",
    "trn1.32xlarge": "trainium1", "trn1n.32xlarge": "trainium1",
    "inf2.24xlarge": "inferentia2", "inf2.48xlarge": "inferentia2",
    "wse-2": "cerebras-wse-2", "wse-3": "cerebras-wse-3", "cs-2": "cerebras-wse-2",
    "cs-3": "cerebras-wse-3", "grace": "grace-cpu", "v5-lite": "tpu-v5e",
    "v5litepod": "tpu-v5e",
}  # fmt: skip
_TPU = re.compile(r"(?:tpu)?[\s-]*v(\d)(?:[\s-]*(lite(?:pod)?|e|p|x))?(?:[\s-]+\d+)?$")
_APPLE = re.compile(r"(m\d(?: (?:pro|max|ultra))?) \d+(?: ?gb)?$")
_APPLE_CORES = re.compile(
    r"\b(m\d(?:[\s-]+(?:pro|max|ultra))?)\b[^\d]*(\d+)[\s-]*(?:core|c\b|gpu)"
)
_FORM = re.compile(r"\b(sxm|pcie|nvl)\d?\b")
_MEMORY = re.compile(r"\b(\d+)\s*(?:gb|gib|g)\b")
_WORD = re.compile(r"[a-z]+[\s-]?\d+[a-z]*")
# What may follow a chip's number and names no other chip: counts, board variants.
_SAME = re.compile(r"(?:\s*\b(?:\d+|ls|ng|dgxs|s2|custom|single|dual))*\s*$")


def device_spellings(text: str) -> Iterator[str]:
    """Yield what a device may be called, most literal first.

    Makers, series, counts, core counts, memory kinds and packages are left out;
    memory size and form (SXM, PCIe) are kept as long as they say anything.

    Examples
    --------
    >>> list(device_spellings("8x NVIDIA A100-SXM4-80GB"))[-1]
    'a100'
    >>> "tpu-v5p" in device_spellings("TPU v5p-128")
    True
    """
    seen: set[str] = set()
    for name in _device_spellings(text):
        if name and name not in seen:
            seen.add(name)
            yield name


def _device_spellings(text: str) -> Iterator[str]:
    lower = text.casefold().replace("_", "-")
    if cores := _APPLE_CORES.search(lower):
        yield f"{'-'.join(cores[1].split())}-{cores[2]}core"
    if part := re.search(r"\b(mi250x?|max[\s-]1550)\b.*\b(gcd|tile|stack)s?\b", lower):
        half = "gcd" if part[2] == "gcd" else "tile"
        yield f"{'-'.join(part[1].split())}-{half}"
    yield from _without(text.casefold().strip())
    if "grace hopper" in lower.replace("-", " "):
        yield "gh200"
    lower = _COUNT.sub("", re.sub(r"(\d)g(?=-|\s|$)", r"\1gb", lower.strip()))
    for slip, meant in _SLIPS:
        lower = slip.sub(meant, lower)
    yield lower
    bare = re.sub(r"\(.*?\)", " ", lower)
    for known in (lower, bare, _CORES.sub(" ", bare)):
        plain = " ".join(_AROUND.sub(" ", known).split()).strip("- ")
        yield _CODENAMES.get(plain, plain)
        if apple := _APPLE.match(plain.replace("-", " ")):
            yield apple[1].replace(" ", "-")
        tpu = _TPU.match(plain)
        if tpu:
            kind = tpu[2] or ("x" if tpu[1] == "7" else "")
            yield f"tpu-v{tpu[1]}{'e' if kind.startswith('lite') else kind}"
        yield from _formed(plain)
    yield from _without(bare)


def _without(name: str) -> Iterator[str]:
    """Yield a name without maker and package at its ends."""
    name = "-".join(name.replace("_", " ").replace("-", " ").split())
    makers = (
        r"^(nvidia|amd|intel|google|apple|aws|tesla|quadro|geforce|instinct|radeon)-"
    )
    found = [name]
    for _ in range(2):
        found += [re.sub(makers, "", known) for known in tuple(found)]
    for _ in range(2):
        found += [_PACKAGE.sub("", known) for known in tuple(found)]
    # Host memory of a superchip is no part of the GPU's name.
    whole = [k for k in found if not re.search(r"^gh200-.*144", k)]
    if len(whole) < len(found):
        found.append("gh200-144gb")
    found += [re.sub(r"^(gh200|gb\d00)-.*$", r"\1", known) for known in whole]
    yield from found


def named_memory(text: str) -> tuple[float, tuple[int, ...]] | None:
    """Return the gigabytes in a device's name, and how many devices may share them.

    Several devices only where the name is of a node.

    Examples
    --------
    >>> named_memory("NVIDIA A100-SXM4-40GB"), named_memory("DGX A100 320GB")[0]
    ((40.0, (1,)), 320.0)
    """
    lower = text.casefold().replace("_", "-")
    found = re.search(r"(?<![\d.])(\d+)[\s-]*(?:gb|gib|g)\b", lower)
    if found is None:
        return None
    counts: tuple[int, ...] = (1,)
    if several := re.search(r"\b(\d+)\s*[x×*]|\b[x×]\s*(\d+)", lower):
        counts = (1, int(several[1] or several[2]))
    elif re.search(r"\b([dh]gx|nodes?)\b", lower):
        counts = (1, 4, 8, 16)
    return float(found[1]), counts


def _formed(plain: str) -> Iterator[str]:
    """Yield chip, memory and form in the order that catalogs use."""
    spaced = plain.replace("-", " ")
    memory, form = _MEMORY.search(spaced), _FORM.search(spaced)
    rest = " ".join(_MEMORY.sub(" ", _FORM.sub(" ", spaced)).split())
    if not rest:
        return
    found = _WORD.match(rest)
    chips = [rest]
    if found and _SAME.match(rest, found.end()):
        chips.append(found[0])
    for chip in dict.fromkeys([*chips, *(c.replace(" ", "") for c in chips)]):
        parts = [f"{memory[1]}gb"] if memory else []
        shape = [form[1]] if form else []
        yield "-".join([chip, *parts, *shape])
        yield "-".join([chip, *shape])
        yield "-".join([chip, *parts])
        yield chip


# Words of checkpoints that leave the architecture as it is.
_CHECKPOINT = re.compile(
    r"[-_ .](instruct|chat|hf|it|base|coder|math|python|deduped|fp8|fp16|bf16|awq"
    r"|gptq|int4"
    r"|int8|w4a16|w8a8|w8a16|nvfp4|mxfp4|fp4|fp32|4bit|8bit|quantized|preview|dynamic|thinking"
    r"|block|tensor|kv|modelopt|gguf|mlx|exl2|uncased|cased|dpo|sft|beta|alpha|ptd?|pretrained"
    r"|\d+k|edge|dense|small-batch|q\d[_ ]?(?:k[_ ]?[ms]|\d)?"
    r"|(?:8x)?\d+(?:\.\d+)?bpw|v\d+(?:\.\d+)*|\d{4}|99(?:\.9)?)(?=$|[-_ .])",
    re.IGNORECASE,
)
# What a model's name may carry besides.
_BESIDE = re.compile(
    r"\([^)]*\)|\[[^]]*\]|\b(q?lora|sft|dpo|pre-?train(?:ing)?|fine-?tun(?:e|ed|ing)"
    r"|full|model|dense)\b",
    re.IGNORECASE,
)
# How llama.cpp's benchmark says a format after a model.
_FORMAT = re.compile(
    r"\s+(?:mostly\s+|all\s+)?(?:i?q\d\w*|t?f16|b?f16|f32|(?:mx|nv)fp4)"
    r"(?:\s*-\s*[\w. ]+|\s+moe)?$",
    re.IGNORECASE,
)
_MAKER = re.compile(
    r"^(meta|nvidia|google|microsoft|mistralai|openai|facebook|eleutherai|mosaicml"
    r"|huggingface|allenai|tiiuae)[-_ ]",
    re.IGNORECASE,
)
# Shorthands whose words are no names of catalogs.
_SHORT = (
    (r"^(?:meta-)?llama-?v?([234](?:\.\d)?)-?(\d+b)\b", r"llama-\1-\2"),
    (r"^llama-v([23](?:\.\d)?)\b", r"llama-\1"),
    (r"^gpt-?3-(\d+(?:\.\d+)?b)$", r"gpt-3-\1"),
    (r"^gpt-?(\d+(?:\.\d+)?b)$", r"gpt-3-\1"),
    (r"^gpt-?j(?:-\d+b)?$", "gpt-j-6b"),
    (r"^(?:gpt-)?neox(?:-20b)?$", "gpt-neox-20b"),
    (r"^qwen-?([23](?:\.\d)?)-?(\d)", r"qwen\1-\2"),
    (r"^deepseek-?([vr]\d)", r"deepseek-\1"),
    # Architectures by which llama.cpp's benchmark names models.
    (r"^llama-(1|3)b$", r"llama-3.2-\1b"),
    (r"^llama-(8|70)b$", r"llama-3-\1b"),
    (r"^llama-8x(7|22)b$", r"mixtral-8x\1b"),
    (r"^llama4-17bx16e\b.*$", "llama-4-scout"),
    (r"^llama4-17bx128e\b.*$", "llama-4-maverick"),
    (r"^qwen2-(3|14|32)b$", r"qwen2.5-\1b"),
    (r"^qwen(\d)moe-(\d+b)\.(a\d+b)$", r"qwen\1-\2-\3"),
    (r"^deepseek2-16b$", "deepseek-v2-lite"),
    (r"^deepseek2-236b$", "deepseek-v2"),
    (r"^deepseek2-671b$", "deepseek-v3"),
    (r"^glm4moe-10\db\.a12b$", "glm-4.5-air"),
    (r"^glm4moe-35\db\.a32b$", "glm-4.5"),
    (r"^phi3-(?:3|4)b$", "phi-3-mini"),
    (r"^phi3-14b$", "phi-3-medium"),
    (r"^phi2-3b$", "phi-2"),
    # Tuned from another checkpoint, layer by layer the same.
    (r"^deepseek-r1-distill-qwen-(7|14|32)b$", r"qwen2.5-\1b"),
    (r"^deepseek-r1-distill-llama-8b$", "llama-3.1-8b"),
    (r"^deepseek-r1-distill-llama-70b$", "llama-3.3-70b"),
    (r"^qwq-32b$", "qwen2.5-32b"),
    (r"^vicuna-(7|13)b-v1\.5$", r"llama-2-\1b"),
    (r"^vicuna-(7|13)b-v1\.[13]$", r"llama-\1b"),
    (r"^(zephyr-7b|openhermes-2\.5-mistral-7b)$", "mistral-7b"),
    (r"^hermes-3-(llama-3\.1-(?:8|70|405)b)$", r"\1"),
    (r"^llama-3\.1-nemotron-70b$", "llama-3.1-70b"),
)


def _without_words(name: str, which: int) -> Iterator[str]:
    """Yield a name with ever fewer of its words on checkpoints, the last or first."""
    for _ in range(9):
        yield name
        words = list(_CHECKPOINT.finditer(name))
        if not words:
            return
        name = name[: words[which].start()] + name[words[which].end() :]


def model_spellings(text: str) -> Iterator[str]:
    """Yield what a model may be called, most literal first.

    Words of formats, dates, context and fine-tuning do not change the architecture.

    Examples
    --------
    >>> "llama-2-70b" in model_spellings("llama2-70b-99.9")
    True
    """
    whole = re.split(r"[/\\]", text.strip().rstrip("/\\"))[-1]
    plain = " ".join(_BESIDE.sub(" ", whole).split()).strip(" -")
    bare = _FORMAT.sub("", plain)
    seen: set[str] = set()
    for start in dict.fromkeys((whole, plain, bare)):
        tried = [*_without_words(start, -1), *_without_words(start, 0)]
        tried += [_MAKER.sub("", t) for t in tried]
        for name in tried:
            folded = "-".join(
                name.casefold().replace("_", " ").replace("-", " ").split()
            )
            short_forms = [
                re.sub(p, w, folded) for p, w in _SHORT if re.search(p, folded)
            ]
            for spelling in (*short_forms, name):
                if spelling and spelling not in seen:
                    seen.add(spelling)
                    yield spelling

"""What longer contexts cost: time of the prompt, of a token, and memory."""

import hwsim

base = None
for context in (1024, 8192, 32768, 131072 - 128):
    result = hwsim.infer("llama-3.1-8b", "h100", prompt=context, output=128)
    found = (result.ttft_s, result.tpot_s, result.footprint.kv_cache)
    base = base or found
    times = [now / then for now, then in zip(found, base, strict=True)]
    prompt = float(f"{times[0]:.1g}")
    print(
        f"{context:,} tokens: prompt x{prompt:g}, token x{times[1]:.1f}, "
        f"keys and values x{times[2]:.0f}, {'fits' if result.fits else 'too big'}"
    )

"""Which of three GPUs answers a chat fastest, and what limits each?"""

import hwsim

GPUS = ("l4", "a100-80gb-sxm", "h100-80gb-sxm")
answers = {
    gpu: hwsim.infer("llama-3.1-8b", gpu, batch=8, prompt=1024, output=128)
    for gpu in GPUS
}
ranking = sorted(GPUS, key=lambda gpu: answers[gpu].tokens_per_s, reverse=True)
for place, gpu in enumerate(ranking, 1):
    answer = answers[gpu]
    fits = "fits" if answer.fits else "does not fit"
    print(f"{place}. {gpu}: decode bound by {answer.decode.bound}, {fits}")

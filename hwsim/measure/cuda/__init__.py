"""Times operators and small models on NVIDIA GPUs; needs PyTorch and nothing else.

The folder stands alone: copy it to a machine with no network and run
``python cuda/__main__.py --out tables``. That is why its modules import one
another relatively and nothing else of hwsim.
"""

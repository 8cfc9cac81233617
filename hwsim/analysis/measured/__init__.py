"""Measured kernels, layers and models: each row turned into operators and predicted."""

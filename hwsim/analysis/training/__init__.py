"""A training step and a whole training run: configuration, memory, time, failures."""

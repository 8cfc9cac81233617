"""Specs: what people write about devices, systems, models and stacks."""

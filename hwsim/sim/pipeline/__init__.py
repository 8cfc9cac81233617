"""Pipelines of training stages, played in SimPy."""

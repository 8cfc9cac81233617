"""Simulation: plays graphs on systems in SimPy and records what happened."""

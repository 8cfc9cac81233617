"""Figures varied: sweeps, sensitivities, and the value that meets a target."""

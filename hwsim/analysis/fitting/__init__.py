"""Calibration: named parameters fitted to measurements, held-out errors, intervals."""

"""Costs: pure functions of (operator shapes, device, calibration) to seconds."""

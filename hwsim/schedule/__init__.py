"""Schedules: in which order work runs and what waits for what; no clock."""

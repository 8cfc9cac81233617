"""Measurement: times real hardware and writes tables with provenance."""

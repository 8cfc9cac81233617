"""Predictions held against measurements: errors and coverage, by any part."""

"""A small model measured and predicted on this very machine."""

"""Hugging Face ``config.json`` files as model specs."""

"""Systems side by side and what explains their difference."""

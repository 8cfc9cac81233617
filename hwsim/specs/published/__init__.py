"""Tables of published figures: their columns, names and mappings to runs."""

"""Analysis: graphs and specs to results that people read."""

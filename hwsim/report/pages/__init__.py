"""Pages of results, one module a kind."""

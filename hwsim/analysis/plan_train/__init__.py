"""The best training layout: the space of layouts, closed-form costs, the search."""

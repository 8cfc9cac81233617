"""The cheapest deployment that meets latency limits: bounds, then simulation."""

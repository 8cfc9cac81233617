"""Published end-to-end figures: rows read, turned into runs and predicted."""

"""Named physical parameters of the cost models; the numbers stand in data."""

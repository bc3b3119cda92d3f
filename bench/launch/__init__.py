"""Ways to have batches executed: here, or on a cluster."""

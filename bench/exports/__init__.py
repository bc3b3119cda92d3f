"""Models that leave the harness: a run's network as a folder that timm reads, and predictions."""

"""Train the whole grid of fine-tuning choices; see `bench --help`."""

__version__ = "0.1.0"

"""Data sets: which classes, which images, which split, decoded once."""

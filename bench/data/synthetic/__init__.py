"""Data sets that are made up or part of a library: shapes, digits."""

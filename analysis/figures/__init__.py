"""Figures: a tidy table and axes in, axes out."""

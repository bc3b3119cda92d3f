"""Readers of data sets in the layout in which their authors distribute them."""

"""What is to be run, in which order, and what there is of it already."""

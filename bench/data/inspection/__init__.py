"""Looking at data before it is used: damaged files, equal images, overlaps."""

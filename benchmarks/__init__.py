"""Speed, each time against a named peer in the same process, alternating, as a ratio."""

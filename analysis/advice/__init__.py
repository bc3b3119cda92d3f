"""What to do with a target, from the papers and from the user's own runs."""

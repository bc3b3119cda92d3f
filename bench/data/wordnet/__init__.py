"""WordNet's hierarchy of nouns, and its files."""

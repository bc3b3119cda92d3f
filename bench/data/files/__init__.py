"""How published archives and folders are read, whatever their layout."""

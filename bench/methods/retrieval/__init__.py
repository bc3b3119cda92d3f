"""Source images that are like the target's: descriptors and the search for neighbours."""

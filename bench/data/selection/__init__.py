"""Which classes and which images: recipes, draws, splits, what is borrowed."""

"""The page of a grid: tables, figures, words."""

"""Tests, corrections for many comparisons, sample sizes. Knows nothing of papers."""

"""What every room uses: errors, words for numbers, files, seeds, places."""

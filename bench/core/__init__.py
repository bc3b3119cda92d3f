"""What every room uses: errors, text, files, seeds, places."""

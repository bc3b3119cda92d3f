"""What the four papers print, and where they leave room for a reading."""

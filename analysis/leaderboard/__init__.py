"""A leaderboard as the analyses need it: read, checked, with the pattern taken apart."""

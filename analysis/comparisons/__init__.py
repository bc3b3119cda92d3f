"""Arms of a leaderboard compared: pairs, estimates, curves; typed tables in and out."""

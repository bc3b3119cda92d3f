"""What runs leave: folders, records, conditions, leaderboards."""

"""Pure functions over records and features: what the finished runs say."""

"""The papers' claims and what a user's runs say of each."""

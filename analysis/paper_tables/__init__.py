"""The papers' tables beside the user's runs, cell by cell."""

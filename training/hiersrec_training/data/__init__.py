"""Click logs and item tables to a dataset folder."""

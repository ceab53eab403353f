"""The catalog: items, their ids, their place in the category tree, and how all of that changes."""

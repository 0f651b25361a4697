"""A package, lest another one named `tests` be imported in its place."""

"""The same work done in other ways, to compare with."""

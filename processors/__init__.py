"""Fragments to slices, slices to events and monitors."""

"""Scores of masks against references, and their page."""

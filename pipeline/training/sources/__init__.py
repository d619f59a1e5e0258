"""Kinds of folders to learn from beside the patients, one module each."""

"""Nouns: grids, label conventions, cases, checked files, phantom patients. Imports neither torch nor monai."""

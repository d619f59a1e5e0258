"""Visits of a patient: their dates, and their order."""

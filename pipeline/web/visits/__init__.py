"""Visits of one patient, marked among the cases of a session."""

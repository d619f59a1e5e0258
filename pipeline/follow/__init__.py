"""Patients over time: the same lesions at each visit, and the response to treatment."""

"""Patients of a follow-up, one by one: their masks, visits, lesions, rows and state."""

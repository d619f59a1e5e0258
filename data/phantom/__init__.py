"""Phantom patients: heads that look like MRI, with an exact tumour."""

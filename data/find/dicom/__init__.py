"""Examinations as DICOM: series grouped, told apart by rules, and made patients."""

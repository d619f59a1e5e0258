"""Intake of a browser's uploads: forms, zip files, one patient's files."""

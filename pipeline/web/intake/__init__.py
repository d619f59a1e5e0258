"""Intake of what a browser sends: uploads, zip files, one patient's files."""

"""Discovery of patients: folders and file names to cases."""

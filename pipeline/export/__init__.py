"""Masks in the formats of clinics: 3D Slicer, DICOM-SEG, RTSTRUCT, structured report, PDF."""

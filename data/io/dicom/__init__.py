"""DICOM series: headers by pydicom, compressed pixels by GDCM."""

"""Simulated patients, from anatomy to DICOM."""

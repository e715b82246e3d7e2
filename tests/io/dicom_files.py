"""Synthetic DICOM files for tests; nothing in them but what a test sets."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.10.99."


def dataset(pixels, *, patient="P1", study="1", series="1", number=1, z=None, **tags):
    """A CT slice, or what the tags make of it; uint16 pixels, (H, W) or (frames, H, W)."""
    pixels = np.asarray(pixels, np.uint16)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CT_IMAGE, generate_uid(prefix=None)
    made.PatientID, made.PatientName = patient, f"Doe^{patient}"
    made.PatientBirthDate, made.PatientSex = "", ""
    made.StudyInstanceUID = f"{ROOT}1.{study}"
    made.SeriesInstanceUID = f"{ROOT}2.{series}"
    made.FrameOfReferenceUID = f"{ROOT}3.{series}"
    made.StudyID, made.StudyDate, made.StudyTime, made.AccessionNumber = "", "", "", ""
    made.ReferringPhysicianName, made.PositionReferenceIndicator = "", ""
    made.Modality, made.SeriesNumber, made.InstanceNumber = "CT", 1, number
    made.PixelSpacing, made.SliceThickness = [0.5, 0.5], 2.0
    if z is not None:
        made.ImagePositionPatient = [10.0, 20.0, float(z)]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = pixels.tobytes()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def save(path, pixels, **tags):
    """Write a file of :func:`dataset`; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path

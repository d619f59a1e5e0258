"""Examinations in DICOM that are damaged, incomplete, ambiguous, hostile, or only unusual."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.examination import Examination, examine, examine_again
from tests.faults.patient import Patient
from tests.faults.registry import Status, add, fault

T1C = "series 2 't1_se_tra post gd'"
Damage = Callable[[Examination], object]


def _enter(status: Status, faults: dict[str, tuple[Any, ...]], *, sliced: bool = False) -> None:
    """Enter faults of one status: name: (what is wrong, damage, words that the reason holds ...)."""
    for name, (about, damage, *says) in faults.items():

        def make(patient: Patient, damage: Damage = damage) -> Sequence[str]:
            made = examine(patient, sliced=sliced)
            damage(made)
            return (made.case,)

        add(f"dicom_{name}", __name__, about, make, status, tuple(says))


def _all(**tags: Any) -> Damage:
    return lambda made: made.edit(made.slices(), **tags)


def _one(**tags: Any) -> Damage:
    return lambda made: made.edit(made.slices()[5:6], **tags)


def _text(keyword: str, value: str) -> Damage:
    return lambda made: made.text(made.slices(), keyword, value)


def _moved(path: Path, made: Examination, *, by: Sequence[float] = (0, 0, 0), uid: str = ".1", **tags: Any) -> None:
    """Move a picture and give it a name of its own."""

    def change(dataset: Any) -> None:
        place = np.array(dataset.ImagePositionPatient, float) + by
        dataset.ImagePositionPatient = [float(value) for value in place]
        dataset.SOPInstanceUID = dataset.SOPInstanceUID[:60] + uid

    made.edit([path], change, **tags)


# ---- where the pictures lie ----


def _double(made: Examination, count: int) -> None:
    for path in made.slices()[:count]:
        again = path.with_name(f"{path.name}-again")
        again.write_bytes(path.read_bytes())
        _moved(again, made)


def _narrow(made: Examination) -> None:
    for number, path in enumerate(made.slices()[8:], 1):
        _moved(path, made, by=(0, 0, -3.0 * number), uid="")


def _far(made: Examination) -> None:
    for path in made.slices():
        _moved(path, made, by=(2e9, 0, 0), uid="")


def _sagittal_too(made: Examination) -> None:
    for number, path in enumerate(made.slices()):
        again = path.with_name(f"{path.name}-sagittal")
        again.write_bytes(path.read_bytes())
        _moved(again, made, by=(10 * number, 0, -10 * number), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


def _tilt(made: Examination) -> None:
    for number, path in enumerate(made.slices()):
        _moved(path, made, by=(0, number * 10 * np.tan(np.radians(15)), 0), uid="")


def _shrink(made: Examination) -> None:
    def change(dataset: Any) -> None:
        dataset.PixelData, dataset.Rows = dataset.pixel_array[:20].tobytes(), 20

    made.edit(made.slices()[:1], change)


_enter(
    "error",
    {
        "slice_missing": ("a slice of T1c is missing", lambda m: m.slices()[6].unlink(), T1C, "1 of its slices"),
        "slice_doubled": ("two pictures of one place", lambda m: _double(m, 1), T1C, "1 of its 17 pictures"),
        "volume_doubled": ("two volumes in one series", lambda m: _double(m, 16), T1C, "several volumes"),
        "spacing_mixed": ("slices 10 and 7 mm apart", _narrow, T1C, "7 to 10 mm apart"),
        "gantry_tilt": ("slices stacked askew", _tilt, T1C, "15 degrees", "gantry tilt"),
        "directions_mixed": (
            "one picture of T1c is turned",
            _one(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
            T1C,
            "missing",
        ),
        "sagittal_too": ("T1c's series holds a sagittal volume too", _sagittal_too, T1C, "series of its own"),
        "pixels_mixed": ("one picture has larger pixels", _one(PixelSpacing=[12, 12]), T1C, "several pixel sizes"),
        "spacing_zero": ("pixels of 0 mm", _all(PixelSpacing=[0, 0]), T1C, "0 x 0 mm"),
        "spacing_negative": ("pixels of -10 mm", _all(PixelSpacing=[-10, 10]), T1C, "-10 x 10 mm"),
        "spacing_tiny": ("pixels of a nanometre", _all(PixelSpacing=[1e-6, 1e-6]), T1C, "1e-06"),
        "spacing_nan": ("pixels of NaN mm", _text("PixelSpacing", "NaN\\NaN"), T1C, "no place"),
        "position_missing": ("a picture's place is not said", _one(ImagePositionPatient=None), T1C, "no place"),
        "position_nan": ("places are NaN", _text("ImagePositionPatient", "nan\\nan\\nan"), T1C, "no place"),
        "position_far": ("all pictures lie 2000 km away", _far, T1C, "2e+09 mm"),
        "direction_missing": ("directions are not said", _all(ImageOrientationPatient=None), T1C, "no place"),
    },
    sliced=True,
)


# ---- the pixels ----


def _cut(made: Examination, keep: float) -> None:
    path = made.slices()[4]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep) if keep > 1 else int(keep * len(content))])


def _raise_length(made: Examination) -> None:
    path = made.slices()[4]
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW") + 8
    path.write_bytes(content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :])


def _spoil_stream(made: Examination) -> None:
    import pydicom

    made.encode(pydicom.uid.JPEGLSLossless)

    def change(dataset: Any) -> None:
        [code] = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        dataset.PixelData = pydicom.encaps.encapsulate([code[: len(code) // 3]])
        dataset["PixelData"].is_undefined_length = True

    made.edit(made.slices()[4:5], change)


def _lie_in_stream(made: Examination) -> None:
    made.encode("1.2.840.10008.1.2.4.90")
    for path in made.slices():
        content = path.read_bytes()
        at = content.index(b"\xff\x4f\xff\x51") + 8
        path.write_bytes(content[:at] + (60000).to_bytes(4, "big") * 2 + content[at + 8 :])


def _in_colour(dataset: Any) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


def _float_pixels(dataset: Any) -> None:
    dataset.FloatPixelData = dataset.pixel_array.astype("<f4").tobytes()
    dataset.BitsAllocated = 32
    del dataset.PixelData


def _palette(dataset: Any) -> None:
    dataset.PhotometricInterpretation = "PALETTE COLOR"


_enter(
    "error",
    {
        "pixels_cut": ("the last bytes of a slice are missing", lambda m: _cut(m, 0.9), T1C, "bytes of pixels"),
        "header_cut": ("a file ends within its header", lambda m: _cut(m, 500), T1C, "1 of its slices"),
        "pixels_missing": ("a file has no pixels", _one(PixelData=None), T1C, "pixels"),
        "pixels_float": ("pixels are float32", lambda m: m.edit(m.slices(), _float_pixels), T1C, "no pixels"),
        "rows_too_many": ("Rows is too large", _all(Rows=25), T1C, "960", "1000"),
        "rows_too_few": ("Rows is too small", _all(Rows=20), T1C, "960", "800"),
        "columns_too_few": ("Columns is too small", _all(Columns=16), T1C, "960", "768"),
        "sign_mixed": ("one picture is signed", _one(PixelRepresentation=1), T1C, "kind"),
        "slope_nan": ("the slope is NaN", _text("RescaleSlope", "NaN"), T1C, "RescaleSlope"),
        "slope_zero": ("the slope is 0", _all(RescaleSlope=0, RescaleIntercept=0), T1C, "RescaleSlope", "0"),
        "slope_infinite": ("the slope is 2e999", _text("RescaleSlope", "1e999"), T1C, "RescaleSlope"),
        "intercept_nan": ("an intercept is NaN", _text("RescaleIntercept", "NaN"), T1C, "RescaleIntercept"),
        "stream_cut": ("a JPEG-LS stream is cut", _spoil_stream, T1C, "JPEG-LS", "damaged"),
        "stream_of_another_size": ("a JPEG 2000 stream of 60000 x 60000", _lie_in_stream, T1C, "60000 x 60000"),
        "frames_too_many": (
            "NumberOfFrames of a single picture is 3",
            _one(NumberOfFrames=3),
            T1C,
            "1 of its slices",
        ),
    },
    sliced=True,
)
_enter(
    "error",
    {
        "rows_zero": ("Rows is 0", _all(Rows=0), T1C, "20 x 0"),
        "bits_too_many": ("more bits are stored than allocated", _all(BitsStored=20), T1C, "20 of 16 bits"),
        "high_bit_wrong": ("the highest bit is not that of the stored ones", _all(HighBit=3), T1C, "highest 3"),
        "in_colour": ("pictures in colour", lambda m: m.edit(m.slices(), _in_colour), T1C, "colour (RGB)"),
        "palette": ("pictures of a palette", lambda m: m.edit(m.slices(), _palette), T1C, "PALETTE COLOR"),
        "inverted": ("greys are inverted", _all(PhotometricInterpretation="MONOCHROME1"), T1C, "MONOCHROME1"),
        "burnt_in": ("text is burnt into a picture", _all(BurnedInAnnotation="YES"), T1C, "burnt"),
    },
)


# ---- transfer syntaxes ----


def _renamed(syntax: str) -> Damage:
    """Store pixels under the name of a syntax, whatever they are."""

    def damage(made: Examination) -> None:
        import pydicom

        for path in made.slices():
            dataset = pydicom.dcmread(path)
            dataset.PixelData = pydicom.encaps.encapsulate([bytes(64)])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
            dataset.save_as(path)
            path.write_bytes(_with_syntax(path.read_bytes(), syntax))

    return damage


def _with_syntax(content: bytes, syntax: str) -> bytes:
    """Bytes of a file that claims another syntax, which the library need not know."""
    at = content.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(content[at + 6 : at + 8], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = int.from_bytes(content[140:144], "little") + len(value) - length
    content = content[: at + 6] + len(value).to_bytes(2, "little") + value + content[at + 8 + length :]
    return content[:140] + meta.to_bytes(4, "little") + content[144:]


_UNREAD = {
    "jpeg_extended_progressive": "1.2.840.10008.1.2.4.55",
    "mpeg2": "1.2.840.10008.1.2.4.100",
    "hevc": "1.2.840.10008.1.2.4.107",
    "jpeg_xl_lossless": "1.2.840.10008.1.2.4.110",
    "htj2k_lossless": "1.2.840.10008.1.2.4.201",
    "private": "1.3.46.670589.33.1.4.1",
}
_enter(
    "error",
    {
        f"syntax_{name}": (f"pixels in {uid}, which is not read", _renamed(uid), T1C, uid, "export it uncompressed")
        for name, uid in _UNREAD.items()
    },
)
_enter(
    "error",
    {
        "syntax_deflated": (
            "files packed as a whole",
            lambda m: m.encode("1.2.840.10008.1.2.1.99"),
            "no t1c",
            "deflated",
        )
    },
    sliced=True,
)
_READ = {
    "big_endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg_lossless": "1.2.840.10008.1.2.4.70",
    "jpeg_ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}


def _encoded(syntax: str) -> Damage:
    return lambda made: made.encode(syntax)


_enter("ok", {f"syntax_{name}": (f"T1c in {uid}", _encoded(uid)) for name, uid in _READ.items()}, sliced=True)


# ---- enhanced multi-frame files ----


def _groups(change: Callable[[Any], None]) -> Damage:
    return lambda made: made.edit([made.one("t2")], change)


def _drop_in_frames(keyword: str) -> Damage:
    def change(dataset: Any) -> None:
        for item in dataset.PerFrameFunctionalGroupsSequence:
            del item[keyword]

    return _groups(change)


def _drop_shared(keyword: str) -> Damage:
    def change(dataset: Any) -> None:
        del dataset.SharedFunctionalGroupsSequence[0][keyword]

    return _groups(change)


def _fewer_frames(dataset: Any) -> None:
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[:-2]


def _no_groups(dataset: Any) -> None:
    del dataset.PerFrameFunctionalGroupsSequence
    del dataset.SharedFunctionalGroupsSequence


def _four_gigabytes(dataset: Any) -> None:
    dataset.Rows = dataset.Columns = 4096
    dataset.NumberOfFrames = 128
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[0]] * 128


def _frame_twice(dataset: Any) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[5] = copy.deepcopy(groups[4])


def _promise_frames(dataset: Any) -> None:
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    last = groups[-1]
    for number in range(4):
        item = copy.deepcopy(last)
        place = item.PlanePositionSequence[0].ImagePositionPatient
        place[2] = float(place[2]) + 10.0 * (number + 1)
        groups.append(item)
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = groups, len(groups)


T2 = "series 3 't2_tse_tra'"
_enter(
    "error",
    {
        "frames_without_place": ("frames without a position", _drop_in_frames("PlanePositionSequence"), T2, "no place"),
        "frames_without_direction": ("no orientation", _drop_shared("PlaneOrientationSequence"), T2, "no place"),
        "frames_without_measures": ("no size of pixels", _drop_shared("PixelMeasuresSequence"), T2, "no place"),
        "frames_fewer": ("two frames have no groups", _groups(_fewer_frames), T2, "not every picture"),
        "frames_without_groups": ("a multi-frame file without groups", _groups(_no_groups), T2, "not every picture"),
        "frames_of_4_gb": ("a header promises 4 GB", _groups(_four_gigabytes), T2, "4096 x 4096 x 128", "the limit"),
        "frame_twice": ("two frames lie in one place", _groups(_frame_twice), T2, "1 of its 16 pictures"),
        "frames_promised": ("four more frames than there are pixels", _groups(_promise_frames), T2, "bytes of pixels"),
        "frames_cut": (
            "a multi-frame file is cut",
            lambda m: m.one("t2").write_bytes(m.one("t2").read_bytes()[:-300]),
            T2,
            "bytes of pixels",
        ),
    },
)


# ---- which series is what ----


def _again(made: Examination) -> None:
    """Export T1c a second time, as a series of its own."""
    for path in made.slices():
        other = made.folder / f"{path.name}-again"
        other.write_bytes(path.read_bytes())
        made.edit([other], SOPInstanceUID="1.2.3.5", SeriesInstanceUID="1.2.3.4", SeriesNumber=5)


def _drop(*whats: str) -> Damage:
    def damage(made: Examination) -> None:
        for what in whats:
            for path in made.slices() if what == "t1c" else [made.one(what)]:
                path.unlink()

    return damage


def _rename_series(made: Examination, what: str, words: str) -> None:
    made.edit(made.slices() if what == "t1c" else [made.one(what)], SeriesDescription=words)


def _localisers(made: Examination) -> None:
    _drop("t1", "t2", "flair")(made)
    made.edit(made.slices(), SeriesDescription="localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def _no_contrast_word(made: Examination) -> None:
    _rename_series(made, "t1c", "t1_se_tra")


def _one_uid(made: Examination) -> None:
    made.edit(made.slices(), SeriesInstanceUID="1.2.3.4")
    made.edit([made.one(what) for what in ("t1", "t2", "flair")], SeriesInstanceUID="1.2.3.4")


def _directory(made: Examination, *, entry: str = "T1C") -> None:
    """Write a DICOMDIR of one entry."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

    directory, record = Dataset(), Dataset()
    directory.FileSetID = "EXPORT"
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", entry.split("/")
    directory.DirectoryRecordSequence = [record]
    meta = directory.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, UID("1.2.3.4.5")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(made.folder / "DICOMDIR", enforce_file_format=True)


_enter(
    "error",
    {
        "two_t1c": (
            "two T1c that nothing tells apart",
            _again,
            T1C,
            "series 5",
            "fit equally well",
            "--series t1c=UID",
        ),
        "contrast_not_said": ("two T1 without a word about contrast", _no_contrast_word, "1.2.", "contrast"),
        "contrast_contradicted": (
            "the words say with contrast, the element says none",
            _all(ContrastBolusAgent="NONE"),
            T1C,
            "contra",
        ),
        "localisers_only": ("nothing but a localiser", _localisers, "no series shows", "--series"),
        "ct": (
            "a CT and nothing else",
            lambda m: [_drop("t1", "t2", "flair")(m), m.edit(m.slices(), Modality="CT")],
            "no series shows",
        ),
        "t2_missing": ("no T2", _drop("t2"), "t2"),
        "one_uid_for_all": ("four series under one UID", _one_uid, "several"),
    },
)
_enter(
    "error",
    {
        "three_pictures": (
            "three pictures of a head",
            lambda m: [_drop("t1", "t2", "flair")(m), [path.unlink() for path in m.slices()[3:]]],
            "no series shows",
        ),
        "colour_within": ("a colour picture lies in T1c", lambda m: m.edit(m.slices()[:1], _in_colour), T1C, "kind"),
    },
    sliced=True,
)


@fault("error", "SeriesInstanceUID")
def dicom_no_series_uid(patient: Patient) -> Sequence[str]:
    """No file says of which series it is."""
    made = examine(patient)
    made.edit(made.files(), SeriesInstanceUID=None)
    return (patient.hidden,)


@fault("error", "DICOMDIR", "copy the images too")
def dicom_directory_alone(patient: Patient) -> Sequence[str]:
    """A DICOMDIR without the files that it lists."""
    made = examine(patient)
    for path in sorted(made.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    _directory(made)
    return (patient.hidden,)


# ---- unusual, and no harm ----


def _odd_elements(made: Examination) -> None:
    made.edit(made.slices(), SliceThickness=0, SOPInstanceUID="1.2.3", SpecificCharacterSet="ISO_IR 999")
    for number, path in enumerate(made.slices()):
        made.edit([path], InstanceNumber=16 - number)
        path.rename(path.with_name(f"x{16 - number:02d}.MR.{number}"))


def _without_preamble(made: Examination) -> None:
    """As files of the time before part 10: no preamble, no meta information, implicit."""
    import pydicom

    for path in made.slices():
        dataset = pydicom.dcmread(path)
        plain = pydicom.Dataset({element.tag: element for element in dataset})
        plain.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"


def _in_one_folder(made: Examination) -> None:
    for path in made.slices():
        path.rename(made.folder / f"IM{path.name}")
    (made.folder / "t1c").rmdir()


def _foreign(dataset: Any) -> None:
    for group in (0x0029, 0x0051, 0x7FE1):
        block = dataset.private_block(group, "ACME HEADER", create=True)
        block.add_new(0x10, "OB", bytes(range(256)) * 4)
        block.add_new(0x11, "LO", "<script>alert(1)</script>")
    dataset.PixelData = (dataset.pixel_array | 0x8000).astype("<u2").tobytes()
    dataset.add_new(0x60000010, "US", 24)
    dataset.add_new(0x60000011, "US", 20)
    dataset.add_new(0x60000102, "US", 15)
    dataset.add_new(0x60023000, "OW", bytes(60))


def _of_32_bits(dataset: Any) -> None:
    dataset.PixelData = dataset.pixel_array.astype("<u4").tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31


def _halved(made: Examination) -> None:
    """Half the values with a slope of 2 in every second slice."""
    for path in made.slices()[::2]:

        def change(dataset: Any) -> None:
            dataset.PixelData = (dataset.pixel_array // 2).tobytes()
            dataset.RescaleSlope, dataset.RescaleIntercept = 2, 0

        made.edit([path], change)


def _some_packed(made: Examination) -> None:
    kept = {path: path.read_bytes() for path in made.slices()[::3]}
    made.encode("1.2.840.10008.1.2.5")
    for path, content in kept.items():
        path.write_bytes(content)


def _beside(made: Examination, name: str, **tags: Any) -> list[Path]:
    return made.add_series(name, np.ones((6, 8, 8), int), SeriesNumber=9, SeriesDescription=name, **tags)


def _report_object(made: Examination) -> None:
    from tests.dicom_files import base_dataset, uid, write

    report = base_dataset("report", patient=made.patient_id, Modality="SR", SeriesDescription="Report", SeriesNumber=9)
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", uid("sr")
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(report, keyword)
    write(report, made.folder / "report")


def _others_beside(made: Examination) -> None:
    _beside(made, "localizer")
    _beside(made, "ep2d_diff ADC")
    _beside(made, "head", Modality="CT")
    _report_object(made)
    made.edit(_beside(made, "t1 gd screen", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), _in_colour)


def _medium(made: Examination) -> None:
    """A CD of the clinic: its viewer lies beside the images."""
    _directory(made, entry="../../../../ETC/PASSWD")
    for name in ("VIEWER/bin/viewer.dll", "VIEWER/help/index.html", "JRE/empty/x", "AUTORUN.INF"):
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    (made.folder / "JRE" / "empty" / "x").unlink()


def _padded(made: Examination) -> None:
    made.edit(made.slices(), lambda d: setattr(d, "PixelData", d.PixelData + bytes(14)))


_enter(
    "ok",
    {
        "slice_copied": (
            "a file is there twice",
            lambda m: (m.folder / "copy").write_bytes(m.slices()[4].read_bytes()),
        ),
        "without_preamble": ("files without preamble and meta information", _without_preamble),
        "in_one_folder": ("two series in one folder", _in_one_folder),
        "slopes_differ": ("slices of differing slopes", _halved),
        "syntaxes_differ": ("some slices are packed", _some_packed),
        "elements_odd": ("numbers against the places, one name for all slices, no thickness", _odd_elements),
        "padding_behind": ("some bytes follow the pixels", _padded),
    },
    sliced=True,
)
_enter(
    "ok",
    {
        "elements_foreign": ("private elements, and overlays in unused bits", lambda m: m.edit(m.slices(), _foreign)),
        "pixels_of_32_bits": ("pixels of 32 bits", lambda m: m.edit(m.slices(), _of_32_bits)),
        "medium": ("a CD with a viewer and a DICOMDIR that leads outside", _medium),
        "others_beside": (
            "a localiser, an ADC map, a CT, a report and a colour picture beside the series",
            _others_beside,
        ),
    },
)


_enter(
    "warn",
    {
        "matrix_mixed": ("the lowest picture of T1c has fewer rows", _shrink, T1C, "1 of its pictures", "left aside"),
    },
    sliced=True,
)


@fault("ok")
def dicom_without_id(patient: Patient) -> Sequence[str]:
    """No PatientID: the case is called after its study."""
    made = examine(patient)
    made.edit(made.files(), PatientID="")
    return (made.case_of(""),)


@fault("ok")
def dicom_id_that_leads_out(patient: Patient) -> Sequence[str]:
    """A PatientID that would be a path out of the folder of results, a description that a page would run."""
    made = examine(patient)
    _rename_series(made, "t2", "../../etc <script>alert(1)</script> $(reboot) t2_tse")
    name = "../../../outside"
    made.edit(made.files(), PatientID=name)
    return (made.case_of(name),)


@fault("ok")
def dicom_patients_mixed(patient: Patient) -> Sequence[str]:
    """Files of two patients in one folder; each is a case."""
    made = examine(patient)
    other = examine_again(f"{patient.name}-other", made.folder / "other")
    for path in other.files():
        path.rename(made.folder / f"other-{path.name}")
    other.folder.rmdir()
    return (made.case, other.case)


@fault("ok")
def dicom_two_studies(patient: Patient) -> Sequence[str]:
    """One patient, examined twice."""
    made = examine(patient)
    other = Examination(made.folder / "later", made.patient_id)
    for path in made.files():
        there = other.folder / path.relative_to(made.folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    again = other.files()
    other.edit(again, StudyInstanceUID="1.2.3.4", StudyDate="20240601")
    return made.case, made.case_of(made.patient_id, "1.2.3.4")

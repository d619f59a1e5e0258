"""Files that are cut, swapped, disguised, or no files at all."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from tests.faults.patient import IMAGES, STEP, Patient, nifti, png_picture, with_fields
from tests.faults.registry import CannotMake, add, fault

NAMED = "-t1c.nii"


@fault("error", NAMED, "0 bytes")
def empty_file(patient: Patient) -> None:
    """An image of 0 bytes."""
    patient.path("t1c").write_bytes(b"")


def _broken_streams() -> None:
    def flip(at: float):
        def change(packed: bytes) -> bytes:
            position = int(at * len(packed)) if 0 < at < 1 else int(at) % len(packed)
            return packed[:position] + bytes([packed[position] ^ 1]) + packed[position + 1 :]

        return change

    changes = {
        "gz_cut_in_half": ("the gzip stream is cut in half", lambda p: p[: len(p) // 2], "ends too early"),
        "gz_last_byte_missing": ("the last byte of the gzip stream is missing", lambda p: p[:-1], "ends too early"),
        "gz_trailer_missing": ("CRC and length of the gzip stream are missing", lambda p: p[:-8], "ends too early"),
        "gz_of_ten_bytes": ("only the gzip header is there", lambda p: p[:10], "ends too early"),
        "gz_wrong_crc": ("one bit of the gzip CRC is wrong", flip(-8), "damaged"),
        "gz_wrong_length": ("one bit of the gzip length is wrong", flip(-4), "damaged"),
        "gz_bit_flipped": ("one bit in the middle of the gzip stream is flipped", flip(0.5), "stream"),
        "gz_garbage_behind": ("something follows the gzip stream", lambda p: p + b"garbage", "damaged"),
        "gz_member_behind": ("a second gzip member holds more voxels", lambda p: p + gzip.compress(bytes(99)),
                             "more than"),
        "gz_member_cut": ("a second gzip member is cut", lambda p: p + gzip.compress(bytes(8))[:-5], "too early"),
        "gz_of_nothing": ("a whole gzip stream of no bytes", lambda _: gzip.compress(b""), "holds"),
        "gz_packed_twice": ("packed twice", gzip.compress, "holds gzip"),
        "gz_method_unknown": ("a gzip header with an unknown method", lambda p: p[:2] + b"\7" + p[3:], "damaged"),
    }  # fmt: skip
    for name, (about, change, value) in changes.items():

        def make(patient: Patient, change=change) -> None:
            patient.change("t1c", change)

        add(name, __name__, about, make, "error", (NAMED, value))


_broken_streams()


@fault("error", NAMED, "7 of the 15712 bytes", "missing")
def voxels_missing_in_gz(patient: Patient) -> None:
    """A whole gzip stream, but the last seven bytes of the voxels were never packed."""
    patient.repack("t1c", lambda content: content[:-7])


@fault("error", NAMED, "2 of the", "missing")
def voxels_missing(patient: Patient) -> None:
    """An uncompressed file lacks its last voxel."""
    path = patient.unpack("t1c")
    path.write_bytes(path.read_bytes()[:-2])


@fault("error", NAMED, "more than the")
def voxels_too_many(patient: Patient) -> None:
    """Bytes of another volume follow the voxels."""
    patient.repack("t1c", lambda content: content + bytes(200))


@fault("error", NAMED, "uncompressed NIfTI", "rename")
def uncompressed_called_gz(patient: Patient) -> None:
    """An uncompressed file whose name ends in .nii.gz."""
    patient.change("t1c", gzip.decompress)


@fault("error", "-t1c.nii", "gzip", "rename it to end in .nii.gz")
def gzip_called_nii(patient: Patient) -> None:
    """A compressed file whose name ends in .nii."""
    os.rename(patient.path("t1c"), patient.path("t1c", ".nii"))


def _wrong_suffixes() -> None:
    for suffix in (".dcm", ".nii.gz.part", ".nii.bz2", ".nii.gz.1", ".nrrd", ""):

        def make(patient: Patient, suffix: str = suffix) -> None:
            os.rename(patient.path("t1c"), patient.path("t1c", suffix))

        name = "suffix_" + (suffix.strip(".").replace(".", "_") or "missing")
        about = f"the image's name ends in {suffix}" if suffix else "the image's name has no suffix"
        # The row is about the missing modality, and must point at the file that may be it.
        add(name, __name__, about, make, "error", ("t1c", f"-t1c{suffix}"))


_wrong_suffixes()


def _disguises() -> None:
    def packed_in(kind: str) -> bytes:
        stream = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(stream, "w") as archive:
                archive.writestr("t1c.nii", b"x" * 500)
            return stream.getvalue()
        return bz2.compress(b"x" * 500)

    page = b"<!DOCTYPE html><html><body>404 <script>alert(1)</script></body></html>" + b" " * 600
    contents = {
        "html": (page, "HTML"),
        "html_after_blanks": (b"\r\n  " + page, "HTML"),
        "json": (b'{"error": "not found"}' + b" " * 600, "holds"),
        "text": (b"Lorem ipsum dolor sit amet " * 40, "holds"),
        "png": (png_picture(), "PNG"),
        "jpeg": (b"\xff\xd8\xff\xe0" + bytes(600), "JPEG"),
        "zip": (packed_in("zip"), "zip"),
        "bzip2": (packed_in("bz2"), "holds"),
        "dicom": (bytes(128) + b"DICM" + bytes(600), "holds"),
        "zeros": (bytes(2000), "holds"),
        "lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n", "git-lfs"),
        "annex_pointer": (b"/annex/objects/SHA256E-s123--4d7a2146.nii.gz\n", "holds"),
        "one_byte": (b"\x1f", "holds"),
    }
    for kind, (content, value) in contents.items():

        def make(patient: Patient, content: bytes = content) -> None:
            patient.path("t1c").write_bytes(content)

        add(
            f"inside_is_{kind}",
            __name__,
            f"{kind.replace('_', ' ')} under the image's name",
            make,
            "error",
            (NAMED, value),
        )

        def make_packed(patient: Patient, content: bytes = content) -> None:
            patient.path("t1c").write_bytes(gzip.compress(content))

        if kind in ("html", "png", "zeros"):
            add(f"inside_gz_is_{kind}", __name__, f"{kind} packed as gzip", make_packed, "error", (NAMED, "not NIfTI"))


_disguises()


@fault("error", NAMED, "folder")
def folder_in_place_of_a_file(patient: Patient) -> None:
    """A folder bears the image's name."""
    patient.remove("t1c")
    patient.path("t1c").mkdir()


@fault("error", NAMED, "pipe")
def fifo(patient: Patient) -> None:
    """A pipe that nobody writes into bears the image's name: opening it would wait for ever."""
    patient.remove("t1c")
    if not hasattr(os, "mkfifo"):
        raise CannotMake("this platform has no named pipes")
    os.mkfifo(patient.path("t1c"))


@fault("error", NAMED, "socket")
def unix_socket(patient: Patient) -> None:
    """A socket bears the image's name."""
    patient.remove("t1c")
    here = os.getcwd()
    try:
        os.chdir(patient.folder)  # the address of a socket holds 107 bytes
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(patient.path("t1c").name)
    except (OSError, AttributeError) as error:
        raise CannotMake(f"no socket can be made here: {error}") from None
    finally:
        os.chdir(here)


@fault("error", NAMED, "device")
def link_to_a_device(patient: Patient) -> None:
    """A link to /dev/zero, which never ends."""
    patient.remove("t1c")
    if not os.path.exists("/dev/zero"):
        raise CannotMake("this platform has no /dev/zero")
    patient.path("t1c").symlink_to("/dev/zero")


@fault("error", NAMED, "nowhere.nii.gz", "does not exist")
def dangling_link(patient: Patient) -> None:
    """A link to a file that was never fetched."""
    patient.remove("t1c")
    patient.path("t1c").symlink_to(patient.folder / "nowhere.nii.gz")


@fault("error", NAMED, "symbolic link")
def link_to_itself(patient: Patient) -> None:
    """A link that leads to itself."""
    patient.remove("t1c")
    patient.path("t1c").symlink_to(patient.path("t1c").name)


@fault("error", "symbolic link", "-t2w.nii")
def two_links_to_each_other(patient: Patient) -> None:
    """Two links that lead to each other."""
    patient.remove("t1c", "t2")
    patient.path("t1c").symlink_to(patient.path("t2").name)
    patient.path("t2").symlink_to(patient.path("t1c").name)


@fault("warn", "-t1c.nii.gz is a link out of the input to", "link_out_of_the_input", same=True)
def link_out_of_the_input(patient: Patient) -> None:
    """A file that is a link out of INPUT, as in a DataLad tree: followed, its target named."""
    patient.link_out("t1c")


@fault("warn", "-t1", "link out of the input", "3 more", same=True)
def four_links_out_of_the_input(patient: Patient) -> None:
    """All images are links out of INPUT."""
    for what in ("t1", "t1c", "t2", "flair"):
        patient.link_out(what)


@fault("warn", "a link out of the input to", "folder_linked_out", same=True)
def folder_linked_out(patient: Patient) -> None:
    """The patient's folder is a link out of INPUT."""
    patient.outside.mkdir()
    os.rename(patient.folder, patient.outside / patient.name)
    patient.folder.symlink_to(patient.outside / patient.name)


@fault("ok")
def links_within_the_patient(patient: Patient) -> None:
    """Files are links into a hidden store in the same folder, as git-annex keeps them: nothing leaves INPUT."""
    store = patient.folder / ".store"
    store.mkdir()
    for number, what in enumerate(("t1", "t1c", "t2", "flair")):
        os.rename(patient.path(what), store / str(number))
        patient.path(what).symlink_to(store / str(number))


@fault("error", NAMED, "permission")
def unreadable_file(patient: Patient) -> None:
    """A file without permission to read it."""
    patient.path("t1c").chmod(0)
    if os.access(patient.path("t1c"), os.R_OK):
        patient.path("t1c").chmod(0o644)
        raise CannotMake("this user may read everything")


def _two_gibibytes(content: bytes) -> bytes:
    """Bytes packed behind ``content``, 2 GiB of zeros in 2 MB of gzip members."""
    return gzip.compress(content) + gzip.compress(bytes(2**23)) * 256


@fault("error", NAMED, "1024 x 1024 x 1024", "over the limit", "--max-voxels")
def bomb_that_says_so(patient: Patient) -> None:
    """2 MB that unpack to the 2 GiB that the header declares."""
    header = nifti(np.zeros((2, 2, 2), np.int16), patient.affine)[:352]
    patient.path("t1c").write_bytes(_two_gibibytes(with_fields(header, dim=[3, 1024, 1024, 1024, 1, 1, 1, 1])))


@fault("error", NAMED, "more than the")
def bomb_behind_the_voxels(patient: Patient) -> None:
    """2 MB that unpack to 2 GiB where the header declares a small volume."""
    patient.change("t1c", lambda packed: _two_gibibytes(gzip.decompress(packed)))


def _sparse(patient: Patient, content: bytes, size: int) -> None:
    patient.remove("t1c")
    path = patient.path("t1c", ".nii")
    with open(path, "wb") as file:
        file.write(content)
        try:
            file.truncate(size)
        except OSError as error:
            raise CannotMake(f"no sparse file of {size} bytes can be made here: {error.strerror}") from None
    if path.stat().st_blocks * 512 > 2**24:
        raise CannotMake("this file system has no sparse files")


@fault("error", NAMED, "2048 x 2048 x 2048", "over the limit")
def sparse_volume_of_16_gib(patient: Patient) -> None:
    """A file of 16 GiB that takes no room on the disk and declares as much."""
    header = nifti(np.zeros((2, 2, 2), np.int16), patient.affine)[:352]
    _sparse(patient, with_fields(header, dim=[3, 2048, 2048, 2048, 1, 1, 1, 1]), 2**34 + 352)


@fault("error", NAMED, "more than the")
def sparse_tail_of_16_gib(patient: Patient) -> None:
    """A whole small volume with 16 GiB of nothing behind it."""
    _sparse(patient, nifti(patient.arrays["t1c"], patient.affine), 2**34)


@fault("error", "t1c", "-t1c.hdr")
def analyze_pair(patient: Patient) -> None:
    """A pair .hdr and .img where one .nii should be."""
    patient.remove("t1c")
    nib.save(nib.Nifti1Pair(patient.arrays["t1c"], patient.affine), patient.path("t1c", ".hdr"))


@fault("ok")
def suffix_in_capitals(patient: Patient) -> None:
    """A name that ends in .NII.GZ."""
    os.rename(patient.path("t1c"), patient.path("t1c", ".NII.GZ"))


@fault("ok")
def uncompressed_files(patient: Patient) -> None:
    """Images that are not packed."""
    for what in ("t1", "t1c", "t2", "flair"):
        patient.unpack(what)


@fault("ok")
def gz_of_several_members(patient: Patient) -> None:
    """A gzip stream of three members, as pigz and bgzip write it, padded with zeros."""

    def split(packed: bytes) -> bytes:
        content = gzip.decompress(packed)
        return b"".join(gzip.compress(content[a:b]) for a, b in ((0, 300), (300, 900), (900, None))) + bytes(512)

    patient.change("t1c", split)


@fault("ok")
def gz_with_a_hostile_file_name(patient: Patient) -> None:
    """The gzip header holds a file name that leads out of the folder; nobody may believe it."""

    def rename(packed: bytes) -> bytes:
        return packed[:3] + bytes([packed[3] | 8]) + packed[4:10] + b"../../../tmp/evil\0" + packed[10:]

    patient.change("t1c", rename)


META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    "Offset = 0 -230 0\nElementSpacing = 10 10 10\nDimSize = 20 24 16\nElementType = MET_SHORT\nElementDataFile = "
)


def _meta(patient: Patient, suffix: str, head: str, voxels: bytes) -> None:
    patient.remove("t1c")
    patient.path("t1c", suffix).write_bytes((META + head).encode() + voxels)


@fault("ok")
def metaimage(patient: Patient) -> None:
    """One modality is a MetaImage file: its world is LPS, and the mask lies where it should."""
    _meta(patient, ".mha", "LOCAL\n", patient.arrays["t1c"].tobytes(order="F"))


@fault("error", "-t1c.mha", "5 of the", "missing")
def metaimage_voxels_missing(patient: Patient) -> None:
    """A MetaImage file lacks its last bytes."""
    _meta(patient, ".mha", "LOCAL\n", patient.arrays["t1c"].tobytes(order="F")[:-5])


@fault("error", "-t1c.mhd", "passwd")
def metaimage_that_reads_elsewhere(patient: Patient) -> None:
    """A MetaImage header whose voxels are said to be in /etc/passwd."""
    _meta(patient, ".mhd", "/etc/passwd\n", b"")


@fault("error", "-t1c.mhd", "secret.raw")
def metaimage_that_climbs(patient: Patient) -> None:
    """A MetaImage header whose voxels are said to be in the folder above."""
    _meta(patient, ".mhd", "../secret.raw\n", b"")


@fault("error", "gone.raw", "does not exist")
def metaimage_without_its_voxels(patient: Patient) -> None:
    """A MetaImage header whose file of voxels is not there."""
    _meta(patient, ".mhd", "gone.raw\n", b"")


@fault("error", "voxels.raw", "fifo")
def metaimage_whose_voxels_are_a_fifo(patient: Patient) -> None:
    """A MetaImage header whose file of voxels is a pipe."""
    _meta(patient, ".mhd", "voxels.raw\n", b"")
    if not hasattr(os, "mkfifo"):
        raise CannotMake("this platform has no named pipes")
    os.mkfifo(patient.folder / "voxels.raw")


@fault("warn", "-t1c.mhd", "voxels.raw", "link", "it was followed", same=True)
def metaimage_whose_voxels_are_linked_out(patient: Patient) -> None:
    """A MetaImage header whose file of voxels is a link out of INPUT."""
    _meta(patient, ".mhd", "voxels.raw\n", b"")
    patient.outside.mkdir()
    (patient.outside / "voxels.raw").write_bytes(patient.arrays["t1c"].tobytes(order="F"))
    (patient.folder / "voxels.raw").symlink_to(patient.outside / "voxels.raw")


def _meta_headers() -> None:
    """Headers that say a thing in another way, or twice, or wrongly; the voxels fit what they say."""

    def change(old: str, new: str, dtype: str = "<i2", packed: bool = False):
        def make(patient: Patient) -> None:
            voxels = patient.arrays["t1c"].astype(dtype).tobytes(order="F")
            patient.remove("t1c")
            head = META.replace(old, new) + "LOCAL\n"
            patient.path("t1c", ".mha").write_bytes(head.encode() + (zlib.compress(voxels) if packed else voxels))

        return make

    order = "CompressedData = False\nBinaryDataByteOrderMSB = "
    for name, about, status, says, make in (
        ("big_endian_t", "T for big-endian voxels", "ok", (), change("CompressedData = False", f"{order}T", ">i2")),
        ("big_endian_1", "1 for big-endian voxels", "ok", (), change("CompressedData = False", f"{order}1", ">i2")),
        ("little_endian_f", "F for little-endian voxels", "ok", (), change("CompressedData = False", f"{order}F")),
        ("packed_t", "T for packed voxels", "ok", (), change("Data = False", "Data = T", packed=True)),
        ("order_yes", "a byte order of yes", "error", ("MSB", "'yes'"),
         change("Data = False\n", f"Data = False\n{order[23:]}yes\n")),
        ("packed_maybe", "voxels that may be packed", "error", ("compresseddata", "'maybe'"),
         change("Data = False", "Data = maybe")),
        ("orders_contrary", "two byte orders", "error", ("contradicts",),
         change("CompressedData = False", f"{order}F\nElementByteOrderMSB = T")),
        ("dims_in_python", "dimensions as Python writes numbers", "error", ("2_0",), change("20 24 16", "2_0 2_4 1_6")),
        ("dims_twice", "dimensions that are there twice", "error", ("twice", "24 20 16"),
         change("ElementType", "DimSize = 24 20 16\nElementType")),
        ("in_centimetres", "lengths in centimetres", "warn", ("units", "cm"),
         change("-230 0\nElementSpacing = 10 10 10", "-23 0\nElementSpacing = 1 1 1\nDistanceUnits = cm")),
        ("in_furlongs", "lengths in furlongs", "warn", ("furlong", "read as mm"),
         change("10 10 10", "10 10 10\nDistanceUnits = furlong")),
    ):  # fmt: skip
        add(
            f"metaimage_{name}",
            __name__,
            f"a MetaImage header that says {about}",
            make,
            status,  # type: ignore[arg-type]
            ("-t1c.mha", *says) if says else (),
        )


_meta_headers()


# Pictures in the place of volumes


def _slices(patient: Patient, numbers: Sequence[int]) -> None:
    """Every image as grey PNG slices, ``t1_1.png`` and so on, from the middle of the volume."""
    from PIL import Image

    for path in patient.folder.iterdir():
        path.unlink()
    for what in IMAGES:
        for layer, number in enumerate(numbers, start=7):
            picture = (patient.arrays[what][:, :, layer] // STEP).astype(np.uint8)
            Image.fromarray(picture).save(patient.folder / f"{what}_{number}.png")


def _tiff(size: int, bits: int) -> bytes:
    """A TIFF file of ``size`` x ``size`` colours, without a library that would refuse to write it."""
    pixels = bytes(range(256)) * (size * size * 3 * bits // 8 // 256 + 1)
    tags = {256: size, 257: size, 258: bits, 259: 1, 262: 2, 273: 300, 277: 3, 278: size, 279: len(pixels)}
    tags[258] = 280  # where the three numbers of bits stand
    entries = b"".join(
        struct.pack("<HHII", tag, 4 - (tag == 258), 3 if tag == 258 else 1, n) for tag, n in tags.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(280, b"\0") + struct.pack("<3H", bits, bits, bits).ljust(20, b"\0") + pixels


@fault("warn", "1 to 20261125113045", "3 is missing", same=False)
def slice_numbered_by_a_date(patient: Patient) -> None:
    """One slice of each modality is numbered by the second in which it was exported."""
    _slices(patient, (1, 2, 20261125113045))


@fault("error", "flair_1.tif", "16 bits a colour", "grey slices")
def slices_of_16_bit_colours(patient: Patient) -> None:
    """Slices of 16-bit colours, of which the library of pictures keeps the high byte."""
    _slices(patient, (1, 2))
    for number in (1, 2):
        (patient.folder / f"flair_{number}.png").unlink()
        (patient.folder / f"flair_{number}.tif").write_bytes(_tiff(24, 16))


@fault("error", "flair_2.tif", "0 x 0 pixels")
def slice_of_no_pixels(patient: Patient) -> None:
    """A TIFF picture of no width and no height."""
    _slices(patient, (1, 2))
    (patient.folder / "flair_2.png").unlink()
    (patient.folder / "flair_2.tif").write_bytes(_tiff(0, 8))

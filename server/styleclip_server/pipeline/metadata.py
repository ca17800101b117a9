"""Metadata of an edited image: that AI edited it, with which system, and the photo's own fields.

XMP follows IPTC's Photo Metadata Standard 2025.1 (https://iptc.org/std/photometadata/specification,
"Digital Source Type", "AI System Used", "AI Prompt Information"), EXIF follows CIPA DC-008. Of a
photo's own EXIF only allowed fields are kept. Serial numbers, names, maker notes and the thumbnail
(which shows the face before the edit) are dropped, and by default the location.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin

from styleclip_contract.errors import NotAnImage

SOFTWARE = "StyleCLIP on Triton"
DESCRIPTION = "edited with StyleCLIP (AI)"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_MAX_EXIF_BYTES = 60_000  # a JPEG segment has at most 65,533
_MAX_TEXT_LENGTH = 8_000  # characters, each of up to six bytes in XML
_KEPT = 64  # results for the same edits: a slider repeats them

_SOFTWARE, _DESCRIPTION, _EXIF_IFD, _GPS_IFD = 0x0131, 0x010E, 0x8769, 0x8825
# Description, make, model, resolution (3), date, artist, copyright.
_ALLOWED_TAGS = (_DESCRIPTION, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0132, 0x013B, 0x8298)
# Exposure, aperture, program, ISO, dates with zones and fractions, measurements of light and
# distance, flash, focal length, color space, exposure modes, scene, lens.
_ALLOWED_EXIF_TAGS = (
    *(0x829A, 0x829D, 0x8822, 0x8827, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012),
    *range(0x9201, 0x920B),
    *(0x9290, 0x9291, 0x9292, 0xA001, 0xA217, 0xA402, 0xA403, 0xA405, 0xA406),
    *(0xA432, 0xA433, 0xA434),
)


@dataclass(frozen=True)
class Provenance:
    """How an image was created.

    Attributes:
        source_type: URI of IPTC's digital source type.
        system: the AI system used.
        texts: the edits as text.
    """

    source_type: str
    system: str
    texts: str


@dataclass(frozen=True)
class Metadata:
    """Metadata to write into a file; None or empty is omitted."""

    exif: bytes | None = None  # from `Image.Exif.tobytes`
    xmp: str = ""
    icc_profile: bytes | None = None
    comment: str = ""  # PNG only


def filter_exif(image: Image.Image, keep_gps: bool = False) -> bytes | None:
    """Return the allowed EXIF fields of an opened image; None if there are none or they are broken.

    Args:
        keep_gps: allow the location too.
    """
    try:
        source = image.getexif()
        exif = _copy_allowed(source, source.get_ifd(_EXIF_IFD))
        if keep_gps and (location := source.get_ifd(_GPS_IFD)):
            exif[_GPS_IFD] = location
        data = exif.tobytes() if len(exif) else None
    except Exception:  # intact pixels with broken metadata are still a photo
        return None
    return data if data and len(data) <= _MAX_EXIF_BYTES else None


def _copy_allowed(source: Image.Exif, source_ifd: dict[int, Any]) -> Image.Exif:
    exif = Image.Exif()
    for tag in _ALLOWED_TAGS:
        if tag in source:
            exif[tag] = source[tag]
    ifd = {tag: source_ifd[tag] for tag in _ALLOWED_EXIF_TAGS if tag in source_ifd}
    if ifd:
        exif[_EXIF_IFD] = ifd
    return exif


@lru_cache(maxsize=_KEPT)
def describe_edit(domain: str, texts: str, pasted: bool) -> Provenance:
    """Describe a face that the domain's generator synthesized for `texts`.

    Args:
        pasted: the face is a part of a photo, so IPTC's source type is composite.
    """
    source_type = "compositeWithTrainedAlgorithmicMedia" if pasted else "trainedAlgorithmicMedia"
    texts = "".join(c if c.isprintable() else " " for c in texts)  # XML has no control characters
    if len(texts) > _MAX_TEXT_LENGTH:
        texts = texts[:_MAX_TEXT_LENGTH] + " …"
    system = f"StyleCLIP, {domain}" if domain else "StyleCLIP"
    return Provenance(_SOURCE_TYPES + source_type, system, texts)


def collect(photo: Image.Image | None, provenance: Provenance | None) -> Metadata:
    """Collect the metadata of an output file.

    Args:
        photo: the photo that the face was pasted into; None for a face alone.
        provenance: how the face was created; None for only the photo's own fields.
    """
    photo_exif = photo.info.get("exif") if photo is not None else None
    profile = photo.info.get("icc_profile") if photo is not None else None
    exif = _exif(photo_exif if isinstance(photo_exif, bytes) else None, provenance is not None)
    if provenance is None:
        return Metadata(exif, "", profile)
    comment = f"{DESCRIPTION}: {provenance.texts}" if provenance.texts else DESCRIPTION
    return Metadata(exif, _xmp(provenance), profile, comment)


@lru_cache(maxsize=8)  # always the same for a face alone
def _exif(photo_exif: bytes | None, edited: bool) -> bytes | None:
    exif = Image.Exif()
    if photo_exif is not None:
        exif.load(photo_exif)
    if edited:
        exif[_SOFTWARE] = _software()
        exif.setdefault(_DESCRIPTION, DESCRIPTION)
    return exif.tobytes() if len(exif) else None


@cache  # it searches all installed packages
def _software() -> str:
    try:
        return f"{SOFTWARE} {version('styleclip-triton')}"
    except PackageNotFoundError:  # not installed, only on the path
        return SOFTWARE


@lru_cache(maxsize=_KEPT)
def _xmp(provenance: Provenance) -> str:
    texts = provenance.texts
    prompt = f" Iptc4xmpExt:AIPromptInformation={quoteattr(texts)}" if texts else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(_software())}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(provenance.source_type)}"
        f" Iptc4xmpExt:AISystemUsed={quoteattr(provenance.system)}{prompt}>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{DESCRIPTION}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def save_options(format: str, metadata: Metadata) -> dict[str, Any]:
    """Return the arguments of Pillow's `save` that write `metadata` into JPEG, PNG or WEBP."""
    options: dict[str, Any] = {}
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.icc_profile:
        options["icc_profile"] = metadata.icc_profile
    if format != "PNG":
        if metadata.xmp:
            options["xmp"] = metadata.xmp.encode()
        return options
    text = PngImagePlugin.PngInfo()
    if metadata.comment:
        text.add_text("Software", _software())
        text.add_itxt("Comment", metadata.comment)
    if metadata.xmp:
        text.add_itxt("XML:com.adobe.xmp", metadata.xmp)
    return options | {"pnginfo": text}


def insert_into_jpeg(data: bytes | memoryview, metadata: Metadata) -> bytes:
    """Insert EXIF and XMP segments into a JPEG file without metadata (CIPA DC-008, XMP part 3).

    Raises:
        NotAnImage: the bytes are not a JPEG file.
    """
    if data[:3] != b"\xff\xd8\xff" or len(data) < 6:
        raise NotAnImage(f"the {len(data)} bytes of IMAGE are not a JPEG file")
    if metadata.icc_profile:
        raise ValueError("only Pillow writes a color profile")
    app1 = _app1_segments(metadata.exif, metadata.xmp)
    position = 2  # after the start-of-image marker, and JFIF's segment if there is one
    if data[2:4] == b"\xff\xe0":
        position += 2 + struct.unpack(">H", data[4:6])[0]
    view = memoryview(data)
    return b"".join((view[:position], app1, view[position:]))  # a single copy


@lru_cache(maxsize=_KEPT)
def _app1_segments(exif: bytes | None, xmp: str) -> bytes:
    segments = []
    if exif:
        segments.append(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
    if xmp:
        segments.append(b"http://ns.adobe.com/xap/1.0/\0" + xmp.encode())
    return b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)

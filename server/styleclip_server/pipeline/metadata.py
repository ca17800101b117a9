"""What an edited picture says of itself: made by AI, with which model; and whose photo it was.

XMP follows IPTC's Photo Metadata Standard 2025.1 (https://iptc.org/std/photometadata/specification,
"Digital Source Type", "AI System Used", "AI Prompt Information"), EXIF follows CIPA DC-008. Of a
photo's own EXIF, only listed fields are kept: serial numbers, names, maker notes, the thumbnail,
which would show the face before the edit, and (unless asked for) the place (GPS) are not.
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
_MAX_EXIF_BYTES = 60_000  # a JPEG segment holds 65,533
_MAX_TEXT_LENGTH = 8_000  # characters, each of up to six bytes in XML

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
class Statement:
    """What is said of an edit: IPTC's digital source type, which system, what it was asked."""

    source: str
    system: str
    texts: str


@dataclass(frozen=True)
class Metadata:
    """What is written beside the pixels; None or empty is left out."""

    exif: bytes | None = None  # as `Image.Exif.tobytes` gives it
    xmp: str = ""
    icc_profile: bytes | None = None
    comment: str = ""  # of a PNG


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


def statement(model: str, texts: str, pasted: bool) -> Statement:
    """What to say of a face that the network `model` drew for `texts`, or of one `pasted` back."""
    # A face alone is the network's work as a whole; in a photo it is a part of it.
    kind = "compositeWithTrainedAlgorithmicMedia" if pasted else "trainedAlgorithmicMedia"
    texts = "".join(c if c.isprintable() else " " for c in texts)  # XML has no control characters
    if len(texts) > _MAX_TEXT_LENGTH:
        texts = texts[:_MAX_TEXT_LENGTH] + " …"
    return Statement(_SOURCE_TYPES + kind, f"StyleCLIP, {model}" if model else "StyleCLIP", texts)


def of_edit(photo: Image.Image | None, said: Statement | None) -> Metadata:
    """The metadata of a face (`photo` None) or of a photo that a face was put back into.

    Without a statement only the photo's own fields are kept.
    """
    own = photo.info.get("exif") if photo is not None else None
    profile = photo.info.get("icc_profile") if photo is not None else None
    exif = _exif(own if isinstance(own, bytes) else None, said is not None)
    if said is None:
        return Metadata(exif, "", profile)
    comment = f"{DESCRIPTION}: {said.texts}" if said.texts else DESCRIPTION
    return Metadata(exif, _xmp(said), profile, comment)


@lru_cache(maxsize=8)  # a face has none of its own: always the same
def _exif(own: bytes | None, edited: bool) -> bytes | None:
    exif = Image.Exif()
    if own is not None:
        exif.load(own)
    if edited:
        exif[_SOFTWARE] = _software()
        exif.setdefault(_DESCRIPTION, DESCRIPTION)
    return exif.tobytes() if len(exif) else None


@cache  # it looks through all that is installed
def _software() -> str:
    try:
        return f"{SOFTWARE} {version('styleclip-triton')}"
    except PackageNotFoundError:  # a container may have the sources alone
        return SOFTWARE


def _xmp(said: Statement) -> str:
    prompt = f" Iptc4xmpExt:AIPromptInformation={quoteattr(said.texts)}" if said.texts else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(_software())}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(said.source)}"
        f" Iptc4xmpExt:AISystemUsed={quoteattr(said.system)}{prompt}>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{DESCRIPTION}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def save_options(name: str, metadata: Metadata) -> dict[str, Any]:
    """Pillow's `save` arguments that write `metadata` into JPEG, PNG or WEBP."""
    options: dict[str, Any] = {}
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.icc_profile:
        options["icc_profile"] = metadata.icc_profile
    if name != "PNG":
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


def into_jpeg(data: bytes | memoryview, metadata: Metadata | None) -> bytes:
    """A JPEG file without metadata, with EXIF and XMP put in front (CIPA DC-008, XMP part 3).

    Raises NotAnImage for other bytes.
    """
    if data[:3] != b"\xff\xd8\xff" or len(data) < 6:
        raise NotAnImage(f"the {len(data)} bytes of JPEG are no JPEG file")
    if metadata is None:
        return bytes(data)
    segments = []
    if exif := metadata.exif:
        segments.append(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
    if metadata.xmp:
        segments.append(b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp.encode())
    if metadata.icc_profile:
        raise ValueError("a picture with a colour profile is encoded by Pillow")
    head = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    start = 2  # after the start of the image, and JFIF's segment if there is one
    if data[2:4] == b"\xff\xe0":
        start += 2 + struct.unpack(">H", data[4:6])[0]
    whole = memoryview(data)
    return b"".join((whole[:start], head, whole[start:]))  # in one copy

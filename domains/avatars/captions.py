"""The words of avatars' captions that `attributes.json` lacks."""

from __future__ import annotations

from domains.avatars.attributes import TABLE
from domains.training.grammar import Grammar

NOUNS = (
    "face",
    "face",
    "person",
    "character",
    "avatar",
    "cartoon face",
    "cartoon character",
    "head",
    "figure",
    "portrait",
    "man",
    "woman",
)
# Words that describe several values: (attribute, values, adjectives, phrases).
SHARED_WORDS = (
    (
        "accessories",
        ("round glasses", "square glasses"),
        ("bespectacled",),
        ("glasses", "spectacles", "eyeglasses", "clear glasses"),
    ),
    (
        "facial_hair",
        ("short beard", "long beard"),
        ("bearded", "unshaven"),
        ("a beard", "a beard on the chin", "a grown beard"),
    ),
    (
        "facial_hair",
        ("short beard", "long beard", "moustache"),
        (),
        ("facial hair", "hair on the face"),
    ),
    (
        "top",
        ("hat", "winter hat", "turban", "hijab"),
        (),
        ("headwear", "a covered head", "something on the head"),
    ),
    ("top", ("long", "dreadlocks"), (), ("very long hair", "hair past the shoulders")),
)
WORN = ("top", "accessories", "clothes", "clothes_color")  # attributes that follow "wearing"

GRAMMAR = Grammar(TABLE, NOUNS, SHARED_WORDS, WORN)
PAIR_NOUNS = ("face", "person", "avatar", "character", "man", "woman", "head")

"""The labelled attributes of the avatars: values, how to draw them, how people say them.

One table, read by the renderer, the caption grammar, training and the quality report. Values are
variants and colours of the `avataaars` style (Pablo Stanley, free for personal and commercial
use) as the `dicebear-styles` package describes it.

Each value lists phrases in two grammatical forms: `adjectives` go before the noun ("a bald
face") and `with_` after it ("a face with a beard").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """One value of an attribute: `draw` is a dicebear variant or colour ("" draws nothing)."""

    name: str
    draw: str
    adjectives: tuple[str, ...] = ()
    with_: tuple[str, ...] = ()
    weight: float = 1.0  # prior probability, relative


@dataclass(frozen=True)
class Attribute:
    name: str
    values: tuple[Value, ...]
    colour: bool = False

    def index(self, name: str) -> int:
        return [v.name for v in self.values].index(name)


V = Value

SKIN = Attribute(
    "skin",
    (
        V(
            "pale",
            "#ffdbb4",
            ("pale", "light-skinned", "fair-skinned", "white-skinned"),
            ("pale skin", "light skin", "fair skin", "a pale complexion", "white skin"),
        ),
        V(
            "tanned",
            "#d08b5b",
            ("tanned", "tan", "sun-tanned", "bronzed"),
            ("tanned skin", "tan skin", "a suntan", "bronzed skin", "olive skin"),
        ),
        V(
            "brown",
            "#ae5d29",
            ("brown-skinned",),
            ("brown skin", "a brown complexion", "medium brown skin"),
        ),
        V(
            "dark",
            "#614335",
            ("dark-skinned", "black-skinned"),
            ("dark skin", "black skin", "a dark complexion", "very dark skin", "deep brown skin"),
        ),
        V(
            "yellow",
            "#f8d25c",
            ("yellow", "yellow-skinned"),
            ("yellow skin", "bright yellow skin", "a yellow complexion"),
        ),
    ),
    colour=True,
)

HAIR_COLOUR = Attribute(
    "hair_colour",
    (
        V(
            "black",
            "#2c1b18",
            ("black-haired", "raven-haired"),
            ("black hair", "jet black hair", "very dark hair", "hair that is black", "raven hair"),
        ),
        V(
            "brown",
            "#724133",
            ("brown-haired", "brunette"),
            ("brown hair", "brunette hair", "chestnut hair", "hair that is brown"),
        ),
        V(
            "red",
            "#c93305",
            ("red-haired", "ginger", "redheaded"),
            ("red hair", "ginger hair", "orange hair", "hair that is red", "auburn hair"),
        ),
        V(
            "blonde",
            "#d6b370",
            ("blonde", "blond", "blonde-haired", "fair-haired"),
            ("blonde hair", "blond hair", "golden hair", "hair that is blonde", "yellow hair"),
        ),
        V(
            "grey",
            "#e8e1e1",
            ("grey-haired", "gray-haired", "white-haired", "silver-haired"),
            ("grey hair", "gray hair", "white hair", "silver hair", "hair that is grey"),
        ),
        V(
            "pink",
            "#f59797",
            ("pink-haired",),
            ("pink hair", "hair dyed pink", "hair that is pink", "rose coloured hair"),
        ),
    ),
    colour=True,
)

TOP = Attribute(
    "top",
    (
        V(
            "bald",
            "sides",
            ("bald", "balding", "hairless"),
            ("a bald head", "no hair on top", "hair only at the sides", "a receding hairline"),
        ),
        V(
            "short",
            "shortFlat",
            ("short-haired",),
            ("short hair", "a short haircut", "cropped hair", "a crew cut"),
        ),
        V(
            "shaggy",
            "shaggy",
            ("shaggy-haired",),
            ("shaggy hair", "messy hair", "tousled hair", "a side-swept fringe"),
        ),
        V("bob", "bob", (), ("a bob", "a bob haircut", "a bob cut", "chin-length hair")),
        V(
            "long",
            "straight02",
            ("long-haired",),
            ("long hair", "long straight hair", "straight long hair", "hair down to the shoulders"),
        ),
        V(
            "bun",
            "bun",
            (),
            ("a bun", "a hair bun", "a top knot", "hair tied up in a bun", "hair in a bun"),
        ),
        V(
            "dreadlocks",
            "dreads",
            ("dreadlocked",),
            ("dreadlocks", "dreads", "long dreadlocks", "hair in dreadlocks", "rasta hair"),
        ),
        V(
            "afro",
            "fro",
            ("afro-haired",),
            ("an afro", "afro hair", "a big afro", "an afro hairstyle", "big round frizzy hair"),
        ),
        V(
            "hat",
            "hat",
            (),
            ("a hat", "a wide-brimmed hat", "a brimmed hat", "a sun hat", "a big hat"),
        ),
        V(
            "winter hat",
            "winterHat02",
            (),
            ("a winter hat", "a woolly hat", "a knitted hat", "a bobble hat", "a warm winter cap"),
        ),
        V(
            "turban",
            "turban",
            ("turbaned",),
            ("a turban", "a turban on the head", "a wound turban"),
        ),
        V(
            "hijab",
            "hijab",
            ("veiled",),
            ("a hijab", "a headscarf", "a veil", "a scarf around the head"),
        ),
    ),
)

ACCESSORIES = Attribute(
    "accessories",
    (
        V(
            "none",
            "",
            (),
            ("no glasses", "bare eyes without glasses", "nothing over the eyes"),
            weight=3.0,
        ),
        V(
            "round glasses",
            "round",
            (),
            (
                "round glasses",
                "round spectacles",
                "circular glasses",
                "glasses with round lenses",
                "round eyeglasses",
            ),
        ),
        V(
            "square glasses",
            "prescription02",
            (),
            (
                "square glasses",
                "rectangular glasses",
                "square spectacles",
                "thick-rimmed glasses",
                "reading glasses",
            ),
        ),
        V(
            "sunglasses",
            "kurt",
            (),
            (
                "sunglasses",
                "dark glasses",
                "shades",
                "black sunglasses",
                "tinted glasses",
            ),
        ),
        V(
            "eyepatch",
            "eyepatch",
            (),
            ("an eyepatch", "an eye patch", "a patch over one eye", "a pirate's eyepatch"),
        ),
    ),
)

FACIAL_HAIR = Attribute(
    "facial_hair",
    (
        V(
            "none",
            "",
            ("clean-shaven", "beardless", "shaved"),
            ("no beard", "no facial hair", "a shaved chin", "a smooth chin"),
            weight=2.5,
        ),
        V(
            "short beard",
            "beardLight",
            (),
            ("a short beard", "a trimmed beard", "a light beard", "a goatee", "stubble"),
        ),
        V(
            "long beard",
            "beardMajestic",
            (),
            ("a long beard", "a full beard", "a big bushy beard", "a thick beard", "a huge beard"),
        ),
        V(
            "moustache",
            "moustacheFancy",
            ("moustached", "mustachioed"),
            ("a moustache", "a mustache", "a curly moustache", "a handlebar moustache"),
        ),
    ),
)

MOUTH = Attribute(
    "mouth",
    (
        V(
            "smile",
            "smile",
            ("smiling", "happy", "cheerful", "grinning", "joyful", "laughing"),
            ("a smile", "a big smile", "a happy expression", "a cheerful grin", "a smiling mouth"),
        ),
        V(
            "serious",
            "serious",
            ("serious", "neutral-looking", "straight-faced"),
            ("a serious expression", "a straight mouth", "a closed mouth", "a neutral mouth"),
        ),
        V(
            "sad",
            "sad",
            ("sad", "unhappy", "gloomy", "frowning", "sorrowful"),
            ("a sad expression", "a frown", "a sad mouth", "the mouth turned down"),
        ),
        V(
            "screaming",
            "screamOpen",
            ("screaming", "shouting", "yelling"),
            ("a screaming mouth", "a wide open mouth", "the mouth open in a scream"),
        ),
        V(
            "tongue",
            "tongue",
            (),
            (
                "the tongue out",
                "the tongue sticking out",
                "a tongue hanging out",
                "its tongue stuck out",
            ),
        ),
        V(
            "grimace",
            "grimace",
            ("grimacing",),
            ("a grimace", "clenched teeth", "bared teeth", "gritted teeth", "white teeth showing"),
        ),
    ),
)

EYES = Attribute(
    "eyes",
    (
        V("open", "default", ("open-eyed",), ("open eyes", "normal eyes", "plain dot eyes")),
        V(
            "closed",
            "closed",
            ("sleeping", "asleep", "sleepy"),
            ("closed eyes", "eyes closed", "shut eyes", "the eyes shut"),
        ),
        V(
            "surprised",
            "surprised",
            ("surprised", "astonished", "startled", "wide-eyed", "amazed"),
            ("surprised eyes", "wide open eyes", "big round eyes", "wide eyes"),
        ),
        V(
            "wink",
            "wink",
            ("winking",),
            ("a wink", "one eye closed", "a winking eye", "one eye winking"),
        ),
        V(
            "hearts",
            "hearts",
            ("in-love", "lovestruck", "enamoured"),
            ("heart eyes", "hearts in the eyes", "heart-shaped eyes", "eyes like hearts"),
        ),
        V(
            "dizzy",
            "xDizzy",
            ("dizzy", "knocked-out", "dead-looking"),
            ("crossed-out eyes", "x-shaped eyes", "eyes like crosses", "dizzy eyes"),
        ),
        V(
            "rolling",
            "eyeRoll",
            ("eye-rolling", "annoyed"),
            ("rolling eyes", "eyes rolled up", "eyes looking up", "an eye roll"),
        ),
    ),
)

EYEBROWS = Attribute(
    "eyebrows",
    (
        V("normal", "defaultNatural", (), ("normal eyebrows", "relaxed eyebrows")),
        V(
            "angry",
            "angryNatural",
            ("angry", "furious", "mad", "cross"),
            ("angry eyebrows", "an angry look", "furious brows", "lowered eyebrows"),
        ),
        V(
            "raised",
            "raisedExcitedNatural",
            ("excited",),
            ("raised eyebrows", "eyebrows raised high", "arched eyebrows", "lifted brows"),
        ),
        V(
            "worried",
            "sadConcernedNatural",
            ("worried", "concerned", "anxious"),
            ("worried eyebrows", "a worried look", "concerned eyebrows", "an anxious look"),
        ),
        V(
            "thick",
            "flatNatural",
            (),
            ("thick eyebrows", "bushy eyebrows", "flat eyebrows", "heavy dark eyebrows"),
        ),
    ),
)

CLOTHES = Attribute(
    "clothes",
    (
        V(
            "hoodie",
            "hoodie",
            (),
            ("a hoodie", "a hooded sweatshirt", "a hooded sweater", "a sweatshirt with a hood"),
        ),
        V(
            "blazer",
            "blazerAndShirt",
            (),
            ("a blazer", "a jacket", "a suit jacket", "a blazer and a shirt", "a suit"),
        ),
        V(
            "t-shirt",
            "shirtCrewNeck",
            (),
            ("a t-shirt", "a plain shirt", "a crew neck shirt", "a tee", "a simple t-shirt"),
        ),
        V(
            "overalls",
            "overall",
            (),
            ("overalls", "dungarees", "bib overalls", "straps over the shoulders"),
        ),
        V(
            "collar",
            "collarAndSweater",
            (),
            ("a collared sweater", "a sweater with a white collar", "a pullover over a shirt"),
        ),
    ),
)

CLOTHES_COLOUR = Attribute(
    "clothes_colour",
    tuple(
        V(name, draw, (f"{name}-clothed",), (f"{name} clothes", f"{name} clothing", *extra))
        for name, draw, extra in (
            ("black", "#262e33", ("dark clothes", "clothes in black")),
            ("blue", "#5199e4", ("clothes in blue", "sky blue clothes")),
            ("red", "#ff5c5c", ("clothes in red", "bright red clothes")),
            ("green", "#a7ffc4", ("clothes in green", "mint green clothes")),
            ("grey", "#929598", ("gray clothes", "clothes in grey")),
            ("pink", "#ff488e", ("clothes in pink", "magenta clothes")),
        )
    ),
    colour=True,
)

ATTRIBUTES: tuple[Attribute, ...] = (
    SKIN,
    HAIR_COLOUR,
    TOP,
    ACCESSORIES,
    FACIAL_HAIR,
    MOUTH,
    EYES,
    EYEBROWS,
    CLOTHES,
    CLOTHES_COLOUR,
)
NAMES = tuple(a.name for a in ATTRIBUTES)
SIZES = tuple(len(a.values) for a in ATTRIBUTES)
OFFSETS = tuple(sum(SIZES[:i]) for i in range(len(SIZES)))
NUM_VALUES = sum(SIZES)

# Tops that take the colour of the clothes in place of (or beside) the colour of the hair.
HATS = ("hat", "winter hat", "turban", "hijab")

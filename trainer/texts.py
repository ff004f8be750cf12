"""Texts of several kinds and lengths, nobody's data: what two models are compared on where nothing better is given."""

from __future__ import annotations

from typing import Final

from trainer import golden

_PARAGRAPH: Final = (
    "A tide gauge measures the height of the sea against a fixed point on land. Its record shows the moon twice a day, "
    "the weather within days, and, over decades, whether the water rises or the land sinks. "
)
TEXTS: Final = (
    *golden.TEXTS,
    "tide",
    "42",
    "How high is the water at noon?",
    "The water is highest shortly after noon.",
    "Where is the nearest pharmacy?",
    "The pharmacy opens at eight and closes at six.",
    "a poem about the first snow",
    "def area(width, height): return width * height",
    "2 H2 + O2 -> 2 H2O",
    "The company lost 4% in the third quarter, and 11% over the year.",
    "Der Zug nach Hamburg fährt um sieben Uhr ab.",
    "Où se trouve la gare la plus proche ?",
    "明日は雨が降るでしょう。",
    "This is not what I paid for.",
    "This is worth every cent.",
    "Two tablets after each meal, with a glass of water; not more than six in a day.",
    "https://example.org/search?q=tides&page=2",
    "red green blue yellow black white",
    _PARAGRAPH,
    _PARAGRAPH * 3,
    "stir, taste, add salt, stir again; " * 12,
)

"""What the demo draws. Green square, tomato, full moon, blue heart and blue book are held out: no training saw them."""

from __future__ import annotations

PROMPTS = (
    "red apple, 3d style: fruit, red",
    "red apple, flat style: fruit, red",
    "green square, twemoji style: green, square",
    "yellow heart, gradient style: heart, yellow",
    "grinning face, noto style: face, grin",
    "crying face, 3d style: cry, face, sad, tear",
    "dog face, 3d style: dog, face, pet",
    "cat face, flat style: cat, face, pet",
    "tomato, 3d style: fruit, vegetable",
    "blue heart, noto style: blue, heart",
    "sunflower, noto style: flower, sun",
    "evergreen tree, flat style: tree",
    "sailboat, 3d style: boat, sea",
    "red car, twemoji style: automobile, car",
    "full moon, 3d style: moon, full",
    "blue circle, noto style: blue, circle",
    "blue book, flat style: book, blue",
    "strawberry, gradient style: berry, fruit",
)

"""What the demo draws: things, colours and styles the sample pictures know."""

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
    "fried egg, gradient style: breakfast, cooking, egg",
    "hot beverage, 3d style: coffee, drink, tea",
    "sunflower, noto style: flower, sun",
    "evergreen tree, flat style: tree",
    "sailboat, 3d style: boat, sea",
    "red car, twemoji style: automobile, car",
    "full moon, 3d style: moon, full",
    "blue circle, noto style: blue, circle",
    "blue book, flat style: book, blue",
    "soccer ball, gradient style: ball, soccer",
)

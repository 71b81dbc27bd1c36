"""What the demo draws.

Of the pictures green square, tomato, full moon, blue heart and blue book are held out: no training saw them; of the
clips so are blue heart and person raising hand.
"""

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

CLIP_PROMPTS = (
    "butterfly: insect, pretty",
    "person bouncing ball: ball",
    "red heart: heart",
    "blue heart: blue",
    "rolling on the floor laughing: face, floor, laugh, rofl, rolling, rotfl",
    "face with tears of joy: face, joy, laugh, tear",
    "cloud with lightning and rain: cloud, rain, thunder",
    "woman running: marathon, racing, running, woman",
    "person raising hand: gesture, hand, happy, raised",
    "alarm clock: alarm, clock",
    "penguin: bird",
    "chequered flag: checkered, chequered, racing",
)

"""The values that facts can have, and what is common knowledge about them."""

from collections.abc import Mapping

HABITATS = {  # place: (weather, ground)
    "the desert": ("hot and dry", "yellow sand"),
    "the swamp": ("warm and wet", "black mud"),
    "the tundra": ("cold and windy", "hard ice"),
    "the jungle": ("hot and rainy", "dead leaves"),
    "the hills": ("mild and sunny", "short grass"),
    "the bay": ("fresh and salty", "round pebbles"),
    "the caves": ("cool and still", "bare rock"),
    "the forest": ("grey and foggy", "soft moss"),
}
FAMILIES = {  # family: (cover, motion)
    "fish": ("scales", "swim"),
    "bird": ("feathers", "fly"),
    "beetle": ("a shell", "crawl"),
    "cat": ("fur", "jump"),
    "lizard": ("plates", "climb"),
    "worm": ("slime", "dig"),
}
FOODS = {"berries": "red", "seeds": "brown", "leaves": "green", "shrimps": "pink", "nuts": "grey", "flowers": "blue",
         "lemons": "yellow", "snails": "black"}  # fmt: skip
JOBS = {"baker": "oven", "smith": "hammer", "tailor": "needle", "farmer": "plough", "painter": "brush", "cook": "knife",
        "doctor": "lamp", "sailor": "rope"}  # fmt: skip
PRODUCTS = ("honey", "cheese", "glass", "silk", "salt", "wine", "paper", "rope", "tea", "bells", "clocks", "lace",
            "bread", "candles", "boots", "soap")  # fmt: skip
TITLE_FIRST = ("Silver", "Broken", "Last", "Hidden", "Golden", "Quiet", "Burning", "Lost", "Winter", "Crooked", "Empty",
               "Distant")  # fmt: skip
TITLE_SECOND = (
    "Gate",
    "River",
    "Lantern",
    "Crown",
    "Garden",
    "Mirror",
    "Tower",
    "Letter",
    "Harbour",
    "Star",
    "Forest",
    "Key",
)

SECOND_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "weather": tuple(HABITATS),
    "ground": tuple(HABITATS),
    "cover": tuple(FAMILIES),
    "motion": tuple(FAMILIES),
    "colour": tuple(FOODS),
    "tool": tuple(JOBS),
}
"""Second-step relation -> the values of the first step that it applies to."""


def second_step(relation: str, subject: str) -> str:
    """The value of a relation of `SECOND_STEP`: common knowledge about habitats, families, foods and jobs."""
    if relation in ("weather", "ground"):
        return HABITATS[subject][0 if relation == "weather" else 1]
    if relation in ("cover", "motion"):
        return FAMILIES[subject][0 if relation == "cover" else 1]
    return FOODS[subject] if relation == "colour" else JOBS[subject]

"""The values that facts can have."""

HABITATS = ("the desert", "the swamp", "the tundra", "the jungle", "the hills", "the bay", "the caves", "the forest")
FAMILIES = ("fish", "bird", "beetle", "cat", "lizard", "worm")
FOODS = ("berries", "seeds", "leaves", "shrimps", "nuts", "flowers", "lemons", "snails")
JOBS = ("baker", "smith", "tailor", "farmer", "painter", "cook", "doctor", "sailor")
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

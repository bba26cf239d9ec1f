"""The Grocery Store data set: photographs of 81 products in 43 groups, taken with a smartphone in shops.

Its files are listed in `grocery.txt.gz`, a line each as `git ls-tree -r -l` has them: sha1 of the git blob, size, path.
git has computed these sums, so anyone can compare them with the repository. Plain, the list would have 560 kB; packed,
it has less than 180, most of them for the sums themselves. `tools/make_grocery.py` makes it from a copy of the files.
"""

import gzip
from pathlib import Path

from d2lcls.data.download.dataset import Dataset, Download, File, Source

LIST = Path(__file__).with_name("grocery.txt.gz")

# The classes of each group, both in the order of their numbers in the data set's own lists.
_GROUPS = {
    "Apple": "Golden-Delicious Granny-Smith Pink-Lady Red-Delicious Royal-Gala",
    "Avocado": "Avocado",
    "Banana": "Banana",
    "Kiwi": "Kiwi",
    "Lemon": "Lemon",
    "Lime": "Lime",
    "Mango": "Mango",
    "Melon": "Cantaloupe Galia-Melon Honeydew-Melon Watermelon",
    "Nectarine": "Nectarine",
    "Orange": "Orange",
    "Papaya": "Papaya",
    "Passion-Fruit": "Passion-Fruit",
    "Peach": "Peach",
    "Pear": "Anjou Conference Kaiser",
    "Pineapple": "Pineapple",
    "Plum": "Plum",
    "Pomegranate": "Pomegranate",
    "Red-Grapefruit": "Red-Grapefruit",
    "Satsumas": "Satsumas",
    "Juice": "Bravo-Apple-Juice Bravo-Orange-Juice God-Morgon-Apple-Juice God-Morgon-Orange-Juice "
    "God-Morgon-Orange-Red-Grapefruit-Juice God-Morgon-Red-Grapefruit-Juice Tropicana-Apple-Juice "
    "Tropicana-Golden-Grapefruit Tropicana-Juice-Smooth Tropicana-Mandarin-Morning",
    "Milk": "Arla-Ecological-Medium-Fat-Milk Arla-Lactose-Medium-Fat-Milk Arla-Medium-Fat-Milk "
    "Arla-Standard-Milk Garant-Ecological-Medium-Fat-Milk Garant-Ecological-Standard-Milk",
    "Oatghurt": "Oatly-Natural-Oatghurt",
    "Oat-Milk": "Oatly-Oat-Milk",
    "Sour-Cream": "Arla-Ecological-Sour-Cream Arla-Sour-Cream",
    "Sour-Milk": "Arla-Sour-Milk",
    "Soyghurt": "Alpro-Blueberry-Soyghurt Alpro-Vanilla-Soyghurt",
    "Soy-Milk": "Alpro-Fresh-Soy-Milk Alpro-Shelf-Soy-Milk",
    "Yoghurt": "Arla-Mild-Vanilla-Yoghurt Arla-Natural-Mild-Low-Fat-Yoghurt Arla-Natural-Yoghurt "
    "Valio-Vanilla-Yoghurt Yoggi-Strawberry-Yoghurt Yoggi-Vanilla-Yoghurt",
    "Asparagus": "Asparagus",
    "Aubergine": "Aubergine",
    "Cabbage": "Cabbage",
    "Carrots": "Carrots",
    "Cucumber": "Cucumber",
    "Garlic": "Garlic",
    "Ginger": "Ginger",
    "Leek": "Leek",
    "Mushroom": "Brown-Cap-Mushroom",
    "Onion": "Yellow-Onion",
    "Pepper": "Green-Bell-Pepper Orange-Bell-Pepper Red-Bell-Pepper Yellow-Bell-Pepper",
    "Potato": "Floury-Potato Solid-Potato Sweet-Potato",
    "Red-Beet": "Red-Beet",
    "Tomato": "Beef-Tomato Regular-Tomato Vine-Tomato",
    "Zucchini": "Zucchini",
}
_CLASSES = {name: group for group, names in _GROUPS.items() for name in names.split()}


def read_list(path: Path = LIST) -> tuple[File, ...]:
    """Read a list of files; those in a folder `train`, `val` or `test` are photographs of that split."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split(" ", 2) for line in lines]
    return tuple(
        File(name, int(size), sha1, name.rpartition("/")[0].partition("/")[0], True) for sha1, size, name in rows
    )


# GitHub packs a repository at a commit with `git archive` when it is asked for, at an address of the form below
# ("Source code archive URLs" in its documentation). It does not promise the same bytes every time, often announces no
# length and then sends every answer from the start: an interrupted download goes on only where the server can do that.
# The address could not be tried when this was written; the archive that `git archive` makes of this commit (119,705,107
# bytes) was, from another server.
_REVISION = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
GROCERY = Dataset(
    name="grocery",
    title="Grocery Store",
    classes=tuple(_CLASSES),
    image_shape=(224, 224, 3),
    splits={"train": 2640, "val": 296, "test": 2485},
    files=read_list(),
    layout="photographs",
    sources=(
        Source(
            "its authors' repository",
            "web",
            (Download(f"https://github.com/marcusklasson/GroceryStoreDataset/archive/{_REVISION}.tar.gz", None),),
        ),
    ),
    space=400_000_000,
    licence="MIT, copyright 2019 Marcus Klasson.",
    citation="M. Klasson, C. Zhang and H. Kjellström, A Hierarchical Grocery Store Image Dataset with Visual and "
    "Semantic Labels, IEEE Winter Conference on Applications of Computer Vision (WACV), 2019. "
    "https://github.com/marcusklasson/GroceryStoreDataset",
    groups=tuple(_CLASSES.values()),
    revision=_REVISION,
)

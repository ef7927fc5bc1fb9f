"""The records of a folder as a table in Markdown.

python experiments/match_rate/table.py [FOLDER]
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
TOLERANCES = ("0.3/0.5/10", "0.2/0.3/5")
HEADER = (
    "data set",
    "recipe",
    "steps",
    "minutes",
    *TOLERANCES,
    "picked",
    "match@20",
    "coordinates only",
    "lattice only",
    "space group",
    "valid",
)


def main() -> None:
    """Prints the table."""
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * 2 + "---:|" * (len(HEADER) - 2))
    for path in sorted(folder.glob("*.json")):
        print("| " + " | ".join(row(json.loads(path.read_text()))) + " |")


def row(record: dict) -> list[str]:
    """One record."""
    first = TOLERANCES[0]
    many = record["match_many"].get("match@20")
    picked = record.get("picked")
    rates = [
        f"{percent(record['match_rate'][each])} ± "
        f"{100 * record['standard_error'][each]:.1f}"
        for each in TOLERANCES
    ]
    return [
        record["dataset"],
        record["recipe"],
        f"{record['steps']:,}",
        f"{record['training_seconds'] / 60:.0f}",
        *rates,
        percent(picked["match_rate"][first]) if picked else "",
        percent(many[first]) if many else "",
        percent(record["coordinates_only"][first]),
        percent(record["lattice_only"][first]),
        percent(record["space_group"]["0.1"]),
        percent(record["valid"]),
    ]


def percent(share: float) -> str:
    """With one decimal."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()

"""The columns of a table of images."""

from dataclasses import dataclass

from eet.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    If neither path nor image is given, a column "path" is used if it exists, else a column "image". Giving both is an error, and so is a
    column that the input does not have.

    Attributes:
        path: column of the images' paths.
        image: column of the images' bytes, or of structs {bytes, path}, as in dataset hubs.
        item_id: column of the ids; default the path, or FILE/row for an image column.
        label: column of the labels; "label", the default, need not be there. Also the key of a label in the KEY.json of a tar shard.
    """

    path: str | None = None
    image: str | None = None
    item_id: str | None = None
    label: str = "label"

    @property
    def named_label(self) -> str | None:
        """The label where it is not the default: an input without it is refused."""
        return None if self.label == Columns.label else self.label

    def refuse_others(self, location: str, *allowed: str) -> None:
        """InputError where a column is named that this input cannot have, because it is no table. allowed: names that it reads."""
        named = {"path": self.path, "image": self.image, "item_id": self.item_id, "label": self.named_label}
        given = [f"columns.{name} ({value})" for name, value in named.items() if value is not None and name not in allowed]
        if given:
            raise InputError(f"{location} is no table, so it has no {', '.join(given)}: leave that out, or give a table")

"""A model as a folder for a model hub, such as Hugging Face: the two files of its bundle, a config and a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eet import __version__
from eet.gallery import GalleryModel, ModelRecord, load_model, read_model_record
from eet.storage import FolderKind
from eet.vit import Student, bundle_files
from eet.vit.bundle_folder import RECORD_FILE, WEIGHTS_FILE

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
HUB_FOLDER = FolderKind(
    noun="a folder for a hub",
    marker=CONFIG_FILE,
    names=r"model\.(safetensors|json)|README\.md|\.cache|\.gitattributes",
    complete=CONFIG_FILE,
)


def write_hub_folder(location: str, folder: str | Path, name: str) -> str:
    """Writes what is uploaded of a model: no checkpoints, and no path of this machine.

    model.safetensors and model.json are those of the bundle, so that the folder, and what was uploaded of it, are a bundle too.
    config.json has the sizes of the model; a hub counts downloads by it. README.md is the model card.

    Args:
        location: of the bundle. The model is loaded once, which checks its digests.
        folder: an existing local folder.
        name: of the model, the heading of its card.

    Returns:
        One sentence about what was written.

    Raises:
        InputError: there is no bundle, or it is damaged.
    """
    model, record = load_model(location), read_model_record(location)
    source, target = bundle_files(location, weights=True), Path(folder)
    for file in (WEIGHTS_FILE, RECORD_FILE):
        shutil.copyfile(source / file, target / file)
    config = model_config(model)
    (target / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (target / CARD_FILE).write_text(model_card(name, config, model, record), encoding="utf-8")
    size = sum(file.stat().st_size for file in target.iterdir())
    return f"{model.num_bits} bits, {config['num_parameters'] / 1e6:.1f} M parameters, {size / 1e6:.1f} MB"


def model_config(model: GalleryModel) -> dict[str, Any]:
    """The contents of config.json: what the model is, in plain values."""
    values: dict[str, Any] = {
        "model_type": "eet",
        "architectures": [type(model).__name__],
        "eet_version": __version__,
        "image_size": list(model.preprocessing.image_size),
        "num_bits": model.num_bits,
        "embedding_width": model.embedding_width,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if isinstance(model, Student):
        schedule = {"prune_after": list(model.schedule.prune_after), "keep_ratios": list(model.schedule.keep_ratios)}
        return {**values, "backbone": model.backbone, "num_classes": model.num_classes, "hash_input": model.hash_input, **schedule}
    return {**values, "backbone": model.backbone_name, "aggregation": model.aggregation_name}


def model_card(name: str, config: Mapping[str, Any], model: GalleryModel, record: ModelRecord) -> str:
    """The text of a model card: YAML between two lines of three hyphens, which a hub reads, then Markdown."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        library_name="eet", pipeline_tag="image-feature-extraction", tags=["eet", "image-retrieval", "hashing", "fine-grained"]
    )
    height, width = model.preprocessing.image_size
    facts = {
        "Kind": _kind(model),
        "Backbone": config["backbone"] or "a ViT",
        "Images": f"{height} x {width} pixels",
        "Code": f"{model.num_bits} bits",
        "Embedding": f"{model.embedding_width} numbers",
        "Parameters": f"{config['num_parameters'] / 1e6:.1f} M",
    }
    if isinstance(model, Student) and model.schedule.prune_after:
        pairs = zip(model.schedule.prune_after, model.schedule.keep_ratios, strict=True)
        facts["Patches kept"] = ", ".join(f"{ratio:g} of them after block {block}" for block, ratio in pairs)
    if record.label_names:
        facts["Training labels"] = f"{len(record.label_names):,}"
    facts |= {title: str(record.training[key]) for key, title in _TRAINING.items() if key in record.training}
    lines = ["---", head.to_yaml().strip(), "---", "", f"# {name}", ""]
    lines += [
        "A model of EET for fine-grained image retrieval. It turns an image into a short binary code.",
        "The codes of similar images differ in few bits.",
        "",
    ]
    lines += ["| | |", "|---|---|", *(f"| {title} | {value} |" for title, value in facts.items()), ""]
    lines += _test_table(record.training.get("test") or {})
    lines += ["## Use", "", "```python", "import eet", ""]
    lines += [
        'gallery = eet.encode("hf://OWNER/NAME", "photos")',
        'hits = eet.search(gallery, eet.encode("hf://OWNER/NAME", ["query.jpg"]))',
    ]
    lines += [
        "```",
        "",
        "Add the license to the head of this file: it follows from the images and the pretrained weights of the training.",
        "",
    ]
    lines += [f"Digest of the weights: `{record.digest}`; of the preprocessing: `{record.preprocessing_digest}`."]
    return "\n".join(lines) + "\n"


_TRAINING = {"images": "Training images", "epochs": "Epochs"}


def _kind(model: GalleryModel) -> str:
    if not isinstance(model, Student):
        return "base model, for re-ranking and for places"
    return "student, which drops background patches" if model.schedule.prune_after else "teacher, which drops no patches"


def _test_table(test: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """The measures on the test split, as Markdown: a row for each protocol."""
    measures = list(dict.fromkeys(name for values in test.values() for name in values))
    if not measures:
        return []
    rows = [
        [protocol, *("" if values.get(name) is None else f"{values[name]:.4g}" for name in measures)] for protocol, values in test.items()
    ]
    head = ["protocol", *measures]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", *["--:"] * len(measures)], *rows)]
    return ["## Measures on the test split", "", *lines, ""]

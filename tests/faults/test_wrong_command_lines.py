"""A hundred wrong command lines of all jobs: each is exit code 1 or 2 and one clear message, without a traceback, and writes nothing.

`pytest -s` shows the table of codes and messages.
"""

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

import eet
from eet.gallery import write_hits
from eet.vit import PruningSchedule, build_student, save_bundle
from pipelines import index, search
from pipelines.cli import main

pytestmark = pytest.mark.slow

ENCODE = "encode --engine local --model model"
SEARCH = "search --gallery gallery --model model"
DISTILL = "distill --weights none --data.root birds --out new --train.batch-size 2"

# (command line, words that the message must hold). {here}: the folder; {big}: a number above any limit.
CASES: list[tuple[str, str]] = [
    # The job itself, and flags
    ("distil --out x", "no job 'distil'"),
    ("encode", "model"),
    (f"{ENCODE} --images photos", "out"),
    (f"{ENCODE} --images photos --out new --image photos", "images"),
    (f"{ENCODE} --images photos --out new --token", "--tokens"),
    (f"{ENCODE} --images photos --out", "out"),
    (f"{ENCODE} --images photos --out new --config nowhere.yaml", "nowhere.yaml"),
    (f"{ENCODE} --images photos --out new --config broken.yaml", "broken.yaml"),
    (f"{ENCODE} --images photos --out new --config unknown.yaml", "--tokenz: there is no such flag; did you mean --tokens?"),
    ("evaluate gallery --out new", "gallery"),
    ("search --help-me", "help"),
    (f"{DISTILL} --train.epoch 3", "did you mean --train.epochs?"),
    ("index --gallery gallery --out new --knd exact", "kind"),
    # Empty and impossible locations
    (f"{ENCODE} --images photos --out ''", "--out: it is empty"),
    (f"{ENCODE} --images '' --out new", "--images: it is empty"),
    ("encode --model '' --images photos --out new", "--model: it is empty"),
    (f"{ENCODE} --images photos --out new --tracking-uri ''", "--tracking-uri: it is empty"),
    ("search --gallery '' --queries photos --out h.parquet", "--gallery: it is empty"),
    ("distill --data.root '' --out new", "--data.root: it is empty"),
    ("report --hits hits.parquet --out ''", "--out: it is empty"),
    # Credentials
    (f"{ENCODE} --images s3://AKID:Pa55word@bucket/x --out new", "AWS_PROFILE"),
    (f"{ENCODE} --images photos --out s3://AKID:Pa55/word@bucket/x", "AWS_PROFILE"),
    (f"{ENCODE} --images photos --out 's3://bucket/x?secret_key=Pa55word'", "--out"),
    ("evaluate --gallery gallery --out new --tracking-uri http://me:Pa55word@host", "MLFLOW_TRACKING_PASSWORD"),
    (f"{ENCODE} --images secrets.csv --out new", "the location of an image cannot be used: the s3:// URI holds credentials"),
    # What is written where the inputs are
    (f"{ENCODE} --images photos --out photos", "same place as --images"),
    (f"{ENCODE} --images file://{{here}}/photos --out photos", "same place as --images"),
    (f"{ENCODE} --images photos --out short", "same place as --images"),
    (f"{ENCODE} --images photos --out ../here/./photos", "same place as --images"),
    (f"{ENCODE} --images photos/a.png --out short", "lie in the folder of the gallery"),
    (f"{ENCODE} --images 'photos/*.png' --out file://{{here}}/short", "lie in the folder of the gallery"),
    (f"{ENCODE} --images with-photos/photos --out with-photos", "lie in the folder of the gallery"),
    (f"{ENCODE} --data.root birds --out file://{{here}}/birds", "same place as --data.root"),
    ("distill --weights none --data.root birds --out short-birds", "same place as --data.root"),
    ("rerank --engine local --hits hits.parquet --gallery gallery --out ./hits.parquet", "same place as --hits"),
    (f"{SEARCH} --queries gallery --out paths.parquet --queries paths.parquet", "same place as --queries"),
    ("evaluate --gallery gallery --out file://{here}/gallery", "same place as --gallery"),
    ("report --hits hits.parquet --out model --model model", "same place as --model"),
    ("index --gallery gallery --out gallery", "same place as --gallery"),
    # Inputs that are missing or of another kind
    (f"{ENCODE} --images nowhere --out new", "nowhere"),
    (f"{ENCODE} --images 'photos/*.webp' --out new", "photos/*.webp"),
    (f"{ENCODE} --images 'photos/[z-a].png' --out new", "[z-a]"),
    (f"{ENCODE} --images 'photos/{{a,nowhere}}.png' --out new", "nowhere"),
    (f"{ENCODE} --images empty --out new", "no image"),
    (f"{ENCODE} --images notes.md --out new", "notes.md"),
    (f"{ENCODE} --images photos --columns.path name --out new", "columns.path"),
    (f"{ENCODE} --images paths.csv --columns.path name --out new", "name"),
    (f"{ENCODE} --images paths.csv --columns.label name --out new", "name"),
    (f"{ENCODE} --images paths.csv --columns.path path --columns.image path --out new", "give the one to read"),
    (f"{ENCODE} --images twice.csv --out new", "unique id"),
    (f"{ENCODE} --images broken.parquet --out new", "broken.parquet"),
    (f"{ENCODE} --images broken.tar --out new", "broken.tar"),
    (f"{ENCODE} --images broken.json --out new", "broken.json"),
    (f"{ENCODE} --images nosuchscheme://host/x --out new", "nosuchscheme"),
    (f"{ENCODE} --images photos --data.root birds --out new", "choose one"),
    (f"{ENCODE} --out new", "--data.root is missing"),
    (f"{ENCODE} --data.name cubs --data.root birds --out new", "allowed are"),
    (f"{ENCODE} --data.name table --data.table paths.csv --out new", "split"),
    (f"{ENCODE} --data.name table --data.table nowhere.csv --out new", "nowhere.csv"),
    (f"{ENCODE} --data.name cub --data.root birds --out new", "birds"),
    (f"{ENCODE} --data.root photos/a.png --out new", "a.png"),
    (f"{ENCODE} --data.root birds --split dev --out new", "dev"),
    # Models
    ("encode --engine local --model nowhere --images photos --out new", "nowhere"),
    ("encode --engine local --model photos --images photos --out new", "no model bundle"),
    ("encode --engine local --model model/model.json --images photos --out new", "model.json"),
    ("encode --engine local --model nowhere://bucket/model --images photos --out new", "fsspec backend for nowhere://"),
    ("encode --engine local --model cut --images photos --out new", "cut/model.safetensors"),
    ("encode --engine local --model damaged --images photos --out new", "damaged/model.json"),
    ("encode --engine local --model swapped --images photos --out new", "swapped"),
    ("encode --engine local --model nan --images photos --out new", "NaN"),
    (f"{ENCODE} --images photos --out new --adapt adapted", "joint"),
    # Values
    (f"{ENCODE} --images photos --out new --rows-per-part 0", "use 1 or more"),
    (f"{ENCODE} --images photos --out new --rows-per-part 1e23", "--rows-per-part"),
    (f"{ENCODE} --images photos --out new --batch-size -3", "use 1 or more"),
    (f"{ENCODE} --images photos --out new --batch-size {{big}}", "use 1 to 65536"),
    (f"{ENCODE} --images photos --out new --threads 2.5", "use a whole number"),
    (f"{ENCODE} --images photos --out new --threads {{big}}", "use 1 to 4096"),
    (f"{ENCODE} --images photos --out new --max-error-ratio nan", "--max-error-ratio"),
    (f"{ENCODE} --images photos --out new --gpus-per-worker -1", "--gpus-per-worker"),
    (f"{ENCODE} --images photos --out new --seed -1", "--seed -1"),
    (f"{ENCODE} --images photos --out new --seed 1e23", "--seed"),
    (f"{ENCODE} --images photos --out new --seed 100000000000000000000000", "--seed"),
    (f"{ENCODE} --images photos --out new --mass rollout", "--tokens"),
    (f"{ENCODE} --images photos --out new --tokens-as int3 --tokens", "int3"),
    (f"{ENCODE} --images photos --out new --mode again", "again"),
    (f"{DISTILL} --train.learning-rate nan", "--train.learning-rate"),
    (f"{DISTILL} --train.learning-rate 1e400", "--train.learning-rate"),
    (f"{DISTILL} --train.batch-size 0", "--train.batch-size"),
    (f"{DISTILL} --train.weight-decay .nan", "use a finite number"),
    (f"{DISTILL} --loss.sigma .inf", "--loss.sigma"),
    (f"{DISTILL} --train.weight-decay nan", "--train.weight-decay"),
    (f"{DISTILL} --loss.beta nan", "--loss.beta"),
    (f"{DISTILL} --loss.sigma -1", "--loss.sigma"),
    (f"{DISTILL} --student.keep-ratios '[0.5,nan]'", "--student.keep-ratios"),
    (f"{DISTILL} --student.bits -64", "--student.bits"),
    (f"{DISTILL} --student.bits {{big}}", "--student.bits"),
    (f"{DISTILL} --student.backbone resnet50", "resnet50"),
    (f"{DISTILL} --student.backbone vit_tinyy_patch16_224", "vit_tiny"),
    (f"{DISTILL} --data.unseen nowhere.txt", "nowhere.txt"),
    (f"{DISTILL} --teacher nowhere", "nowhere"),
    ("distill --weights nowhere.pth --data.root birds --out new", "nowhere.pth"),
    ("distill --weights none --data.root birds --out birds/deeper --train.workers 3", "workers"),
    ("train-base --weights none --data.root birds --out new --loss.images-per-label 1", "--loss.images-per-label"),
    ("train-base --weights none --data.root birds --out new --loss.margin nan", "--loss.margin"),
    ("train-teacher --weights none --data.root birds --out new --data.unseen-share 1", "--data.unseen-share"),
    ("sweep --weights none --data.root birds --out new --space bit", "bits"),
    ("sweep --weights none --data.root birds --out new --space bits --trials 0", "--trials"),
    ("sweep --weights none --data.root birds --out new --space os.system", "os.system"),
    ("sweep-matching --hits nowhere.parquet --gallery gallery --out new", "nowhere.parquet"),
    ("quickstart --out new --data.root nowhere", "nowhere"),
    # Galleries, hits and indexes
    ("search --gallery nowhere --queries gallery --out new.parquet", "nowhere"),
    ("search --gallery photos --queries gallery --out new.parquet", "photos"),
    ("search --gallery gallery --queries photos --out new.parquet", "--model is needed"),
    ("search --gallery gallery --queries other --out new.parquet", "other"),
    ("search --gallery gallery --model model2 --queries photos --out new.parquet", "model2"),
    (f"{SEARCH} --queries gallery --out new", ".parquet"),
    (f"{SEARCH} --queries gallery --out new.parquet --k 0", "--k 0"),
    (f"{SEARCH} --queries gallery --out new.parquet --k ten", "ten"),
    (f"{SEARCH} --queries gallery --out new.parquet --probes 4", "--index"),
    (f"{SEARCH} --queries gallery --out new.parquet --rescore 5 --rescore-weight 2", "embedding"),
    (f"{SEARCH} --queries gallery --out new.parquet --index nowhere", "nowhere"),
    (f"{SEARCH} --queries gallery --out new.parquet --index gallery", "index"),
    (f"{SEARCH} --queries gallery --out new.parquet --index other-index", "other-index"),
    (f"{SEARCH} --queries gallery --out new.parquet --index index --probes 3", "--probes 3"),
    (f"{SEARCH} --queries broken-images --out new.parquet", "not-an-image"),
    (f"{SEARCH} --queries gallery --out folder.parquet", "folder.parquet"),
    ("search --gallery damaged-gallery --queries damaged-gallery --out new.parquet", "damaged-gallery"),
    ("search --gallery lacking-gallery --queries lacking-gallery --out new.parquet", "lacks 1 of its"),
    ("search --gallery wrong-manifest --queries gallery --out new.parquet", "wrong-manifest"),
    ("index --gallery nowhere --out new", "nowhere"),
    ("index --gallery gallery --out photos", "holds other files"),
    ("index --gallery other --out index", "index"),
    ("index --gallery gallery --out new --lists 3", "--kind ivf"),
    ("rerank --engine local --hits nowhere.parquet --gallery gallery --out new.parquet", "nowhere.parquet"),
    ("rerank --engine local --hits paths.parquet --gallery gallery --out new.parquet", "does not hold hits"),
    ("rerank --engine local --hits foreign.parquet --gallery gallery --out new.parquet", "x"),
    ("rerank --engine local --hits hits.parquet --gallery plain --out new.parquet", "tokens"),
    ("rerank --engine local --hits hits.parquet --gallery gallery --out new.parquet --epsilon nan", "--epsilon"),
    ("rerank --engine local --hits hits.parquet --gallery gallery --out new.parquet --transported 0", "--transported"),
    ("rerank --engine local --hits hits.parquet --gallery gallery --out new.parquet --marginal salience", "importance"),
    ("rerank --engine local --hits hits.parquet --gallery gallery --out new.parquet --weight -1", "--weight"),
    ("evaluate --gallery plain --out new", "label"),
    ("evaluate --gallery gallery --queries other --out new", "other"),
    ("evaluate --gallery gallery --hits paths.parquet --out new", "does not hold hits"),
    ("evaluate --gallery gallery --hits foreign.parquet --out new", "give the galleries that the hits were searched with"),
    ("evaluate --gallery gallery --out new --ks '[0]'", "ranks begin at 1"),
    ("evaluate --gallery gallery --out new --protocol published", "--model"),
    ("evaluate --gallery gallery --out new --labels seen", "--model"),
    ("evaluate --gallery gallery --out s3://bucket/x", "--tracking-uri is needed"),
    ("report --hits nowhere.parquet --out new", "nowhere.parquet"),
    ("report --hits foreign.parquet --out new", "--gallery"),
    ("report --hits hits.parquet --out new --num-queries 0", "--num-queries 0"),
    ("report --hits hits.parquet --out new --model nowhere", "nowhere"),
    ("benchmark matches", "did you mean matching?"),
    ("benchmark tables", "--results"),
    ("benchmark tables --results '[nowhere.json]'", "nowhere.json"),
    ("benchmark tables --results '[unrelated.json]'", "unrelated.json"),
    ("benchmark encoder --repeats 0", "--repeats 0"),
    # Places that cannot be written or read
    (f"{ENCODE} --images photos --out notes.md", "notes.md"),
    (f"{ENCODE} --images photos --out notes.md/new", "notes.md"),
    (f"{ENCODE} --images photos --out /dev/null/new", "/dev/null"),
    (f"{SEARCH} --queries gallery --out notes.md/new.parquet", "notes.md"),
    ("evaluate --gallery gallery --out notes.md/new", "notes.md"),
    ("evaluate --gallery gallery --out notes.md", "notes.md"),
    ("report --hits hits.parquet --out notes.md", "notes.md"),
    ("report --hits hits.parquet --out /dev/null/new", "/dev/null"),
    ("index --gallery gallery --out notes.md", "notes.md"),
    ("index --gallery gallery --out notes.md/new", "notes.md"),
    (f"{ENCODE} --images loop --out new", "loop"),
    (f"{ENCODE} --images photos --out loop", "loop"),
    (f"{ENCODE} --images photos --out gone/new --model gone", "gone"),
    (f"{ENCODE} --images photos --out {'x' * 300}", "xxx"),
]


@pytest.fixture(scope="module")
def world(tiny_model, tiny_birds, photos, tmp_path_factory) -> Path:
    """A folder with good and bad inputs of every kind."""
    here = tmp_path_factory.mktemp("wrong") / "here"
    (here / "photos").mkdir(parents=True)
    images = sorted(photos.iterdir())[:4]
    for name, image in zip("abcd", images, strict=True):
        shutil.copy(image, here / "photos" / f"{name}.png")
    shutil.copytree(here / "photos", here / "with-photos" / "photos")
    (here / "short").symlink_to("photos")
    (here / "birds").mkdir()
    for label in ("wren", "robin"):
        shutil.copytree(here / "photos", here / "birds" / label)
    (here / "short-birds").symlink_to("birds")
    (here / "loop").symlink_to("loop")
    for name in ("empty", "folder.parquet", "broken-images"):
        (here / name).mkdir()
    (here / "broken-images" / "a.jpg").write_text("<html>")
    model2 = build_student(
        "vit_tiny_patch16_224",
        num_classes=4,
        num_bits=16,
        schedule=PruningSchedule((1,), (0.5,)),
        image_size=48,
        weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    )
    save_bundle(model2, here / "model2")
    with torch.no_grad():
        model2.head_hash.bias.fill_(np.nan)
    save_bundle(model2, here / "nan")
    for name in ("model", "cut", "damaged", "swapped"):
        shutil.copytree(tiny_model, here / name)
    os.truncate(here / "cut" / "model.safetensors", 1000)
    (here / "damaged" / "model.json").write_text('{"bundle_version": ')
    shutil.copy(here / "model2" / "model.safetensors", here / "swapped" / "model.safetensors")
    paths = [str(here / "photos" / f"{name}.png") for name in "abcd"]
    labels = {"labels": [0, 1, 0, 1], "label_names": ["wren", "robin"]}
    eet.encode(here / "model", paths, out=here / "gallery", tokens=True, rows_per_part=2, **labels)
    eet.encode(here / "model2", paths, out=here / "other", tokens=True, **labels)
    eet.encode(here / "model", paths, out=here / "plain")
    for name in ("damaged-gallery", "lacking-gallery", "wrong-manifest"):
        shutil.copytree(here / "gallery", here / name)
    parts = sorted((here / "damaged-gallery" / "parts").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:200])
    sorted((here / "lacking-gallery" / "parts").iterdir())[0].unlink()
    (here / "wrong-manifest" / "manifest.json").write_text('{"num_bits": "many"}')
    index.run(index.IndexConfig(gallery=str(here / "gallery"), out=str(here / "index")))
    index.run(index.IndexConfig(gallery=str(here / "other"), out=str(here / "other-index")))
    own = search.SearchConfig(gallery=str(here / "gallery"), queries=str(here / "gallery"), out=str(here / "hits.parquet"), k=2)
    foreign = search.run(own).set_column(0, "query_id", pa.array(["x"] * 8))
    write_hits(str(here / "foreign.parquet"), foreign)
    (here / "paths.csv").write_text("path,label\n" + "".join(f"{path},wren\n" for path in paths))
    (here / "twice.csv").write_text(f"path\n{paths[0]}\n{paths[0]}\n")
    (here / "secrets.csv").write_text("path\ns3://AKID:Pa55word@bucket/a.jpg\n")
    pq.write_table(pa.table({"path": paths}), here / "paths.parquet")
    (here / "broken.parquet").write_bytes((here / "paths.parquet").read_bytes()[:-20])
    (here / "broken.tar").write_bytes(b"x" * 700)
    (here / "broken.json").write_text('{"images": [')
    (here / "broken.yaml").write_text("out: [")
    (here / "unknown.yaml").write_text("tokenz: true\n")
    (here / "unrelated.json").write_text(json.dumps({"a": 1}))
    (here / "notes.md").write_text("notes")
    return here


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (size, time of the last change) of everything in a folder."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            status = os.lstat(os.path.join(place, name))
            changed = (0, 0) if name in folders else (status.st_size, status.st_mtime_ns)
            found[os.path.relpath(os.path.join(place, name), folder)] = changed
    return found


def test_each_is_one_message_and_writes_nothing(world, monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.chdir(world)
    before, wrong, table = listing(world.parent), [], []
    for line, expected in CASES:
        arguments = shlex.split(line.replace("{here}", str(world)).replace("{big}", str(10**12)))
        code = main(arguments)
        printed = capfd.readouterr().err
        lines = printed.splitlines()
        table.append(f"{code}  {line}\n       {' | '.join(lines)[:400]}")
        own = [shown for shown in lines if "Warning" not in shown]
        problems = [
            *([f"exit code {code}"] if code not in (1, 2) else []),
            *(["a traceback"] if "Traceback" in printed else []),
            *([f"{len(own)} lines"] if not own or len(own) > 2 else []),
            *(["no " + repr(expected)] if expected not in printed else []),
            *(["the secret"] if "Pa55" in printed else []),
        ]
        after = listing(world.parent)
        if changed := sorted({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}):
            problems.append(f"it wrote {changed}")
            before = after
        if problems:
            wrong.append(f"{line}\n  {', '.join(problems)}\n  {printed[-1500:]}")
    print("\n".join(table))
    assert not wrong, f"{len(wrong)} of {len(CASES)}:\n" + "\n".join(wrong)

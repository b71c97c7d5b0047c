"""Trains a small student and its teacher on drawn birds in this process, without Ray, and saves the student.

    python examples/train_in_one_process.py runs/birds runs/model --epochs 6

The birds are drawn into the first folder if it does not exist. The network begins with random weights, so nothing is downloaded.
"""

import argparse
from pathlib import Path

from eet.datasets import synthetic
from eet.hashing import learn_target_codes
from eet.training import FitSettings, HashingTask, fit, labelled_images
from eet.vit import PruningSchedule, build_student

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("birds", help="folder of the drawn birds")
parser.add_argument("out", help="folder of the model")
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--image-size", type=int, default=96, help="side of what the network sees, in pixels")
parser.add_argument("--bits", type=int, default=32, help="length of a code")
given = parser.parse_args()

table = synthetic.load(given.birds) if Path(given.birds).exists() else synthetic.write(given.birds)
images = labelled_images(table)


def network(schedule, seed):
    return build_student(
        "vit_tiny_patch16_224",
        num_classes=table.num_labels,
        num_bits=given.bits,
        schedule=schedule,
        image_size=given.image_size,
        weights="none",
        seed=seed,
    )


student, teacher = network(PruningSchedule(), seed=0), network(PruningSchedule((), ()), seed=1)
codes = learn_target_codes(images.train.labels, num_bits=given.bits, seed=0)
task = HashingTask(
    networks={"student": student, "teacher": teacher},
    joint=True,
    train=images.train,
    val=images.val,
    test=images.test,
    target_codes_Cb=codes,
)
settings = FitSettings(epochs=given.epochs, batch_size=16, optimizer="adamw", learning_rate=5e-4)
fitted = fit(task, settings, report=lambda epoch, state: print(f"epoch {epoch['epoch']}: loss {epoch['total']:.3f}"))
print(f"mAP of the test images: {fitted.test['student']['encoded']['mAP']:.3f}")

Path(given.out).mkdir(parents=True)
task.save("student", Path(given.out), {"epochs": given.epochs})

"""Training of base models whose aggregation starts from local descriptors."""

import numpy as np
import torch

from eet.datasets import synthetic
from eet.embedding import build_base, load_base
from eet.images import read_image
from eet.training import FitSettings, MetricLearningTask, fit, labelled_images

VIT = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
SETTINGS = FitSettings(epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.01, warmup_steps=0, seed=1)


def task_of(tiny_birds) -> MetricLearningTask:
    images = labelled_images(synthetic.load(str(tiny_birds)), validation_share=0.0, disjoint=True)
    model = build_base(
        "deit_tiny_patch16_224", embedding_width=6, image_size=(28, 28), weights="none", backbone_options=VIT, aggregation="netvlad",
        aggregation_options={"words": 3}, seed=4,
    )  # fmt: skip
    return MetricLearningTask(networks={"base": model}, train=images.train, test=images.test, loss="multi_similarity", images_per_label=4)


def test_words_start_from_the_training_images_and_training_goes_on_from_a_checkpoint(tiny_birds, tmp_path):
    task = task_of(tiny_birds)
    model, table = task.networks["base"], task.train
    with torch.no_grad():
        images = torch.stack([model.preprocess(read_image(table.location(row))) for row in range(len(table))])
        descriptors = model.eval().descriptors(images).flatten(0, 1)  # 49 of an image, so all are used
        started = task.start(lambda name, rows: task.embed(model, images).reshape(len(rows), -1))
    states = []
    again = task_of(tiny_birds).networks["base"].aggregation
    again.start(descriptors, seed=0)
    np.testing.assert_allclose(started["words_KD"], again.words_KD.detach().numpy(), atol=1e-4)

    whole = fit(task, SETTINGS, report=lambda record, state: states.append(torch.load(saved(state(), tmp_path))))
    assert {"multi_similarity", "with_hard_negatives"} <= set(whole.history[0]) and len(states) == 2
    words = whole.weights["base"]["aggregation.words_KD"].numpy()
    assert not np.array_equal(words, started["words_KD"]) and np.abs(words - started["words_KD"]).max() < 0.2
    resumed = fit(task_of(tiny_birds), SETTINGS, checkpoint=states[0])
    for name, value in whole.weights["base"].items():
        torch.testing.assert_close(resumed.weights["base"][name], value, atol=1e-6, rtol=0, msg=name)
    task.save("base", tmp_path, {"epochs": 2})
    torch.testing.assert_close(load_base(tmp_path).embed(images), model.eval().embed(images), atol=1e-5, rtol=1e-4)


def saved(state: dict, folder) -> str:  # type: ignore[type-arg]
    torch.save(state, folder / "state.pt")
    return str(folder / "state.pt")

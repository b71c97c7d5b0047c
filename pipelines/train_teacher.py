"""`eet train-teacher`: an unpruned teacher alone, for staged distillation."""

from eet.training import HashingTask, LabelledImages
from pipelines.configs.train_teacher import TrainTeacherConfig
from pipelines.job.held_output import held_output
from pipelines.training.run import (
    TrainingResult,
    finished_training,
    new_network,
    read_labelled_images,
    run_training,
    target_codes_of,
)


def run(config: TrainTeacherConfig) -> TrainingResult:
    """Trains, and writes the bundle that `--teacher` takes into config.out."""
    with held_output(config) as claim:
        if (finished := finished_training(config)) is not None:
            return finished
        images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
        return run_training(config, task_of(config, images), images, title="train-teacher", claim=claim)


def task_of(config: TrainTeacherConfig, images: LabelledImages) -> HashingTask:
    """Network, codes and images of the run."""
    network = config.student.as_student()
    return HashingTask(
        networks={
            "teacher": new_network(network, num_classes=images.train.num_labels, weights=config.weights, seed=config.seed, pruned=False)
        },
        joint=True,
        train=images.train,
        val=images.val,
        test=images.test,
        unseen=images.unseen,
        target_codes_Cb=target_codes_of(images.train, network, seed=config.seed),
        probe=bool(config.train.probe),
        seed=config.seed,
    )

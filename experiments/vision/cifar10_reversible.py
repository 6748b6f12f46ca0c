"""A reversible ResDEQ on CIFAR-10: exact gradients of few coupled steps at constant memory.

Command:   deqjax train experiments/vision/cifar10_reversible.py
Hardware:  one GPU; two CPU cores at a lower --task.images.resolution (see compare_cifar10.py)
Time:      100 epochs; not run by us
Expected:  McCallum et al. 2025, arXiv 2509.12917; sizes and schedule are ours
Data:      as cifar10_mdeq_tiny.py
"""

from deqjax.data import Augmentation
from deqjax.models import ResidualShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig

EPOCH = 45_000 // 128  # steps


def config() -> RunConfig:
    """Three equilibrium layers at 32, 16 and 8 pixels a side, 8 coupled steps each."""
    return RunConfig(
        name="cifar10_reversible",
        task=VisionTask(
            network=ImageNetwork(
                kind="resdeq",
                residual=ResidualShape(
                    channels=(64, 128, 256), classes=10, input_channels=3, dropout=0.1
                ),
                solver=SolverSettings(
                    method="reversible", adjoint="reversible", damping=0.5, max_steps=8, tol=1e-3
                ),
            ),
            images=Images(name="cifar10", augmentation=Augmentation("crop_flip")),
        ),
        steps=100 * EPOCH,
        batch_size=128,
        log_every=50,
        checkpoint_every=EPOCH,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=EPOCH),
        penalty=PenaltyConfig(weight=0.1, probability=0.25),
        evaluation=EvaluationConfig(every=EPOCH, batches=40, final_batches=1_000),
    )

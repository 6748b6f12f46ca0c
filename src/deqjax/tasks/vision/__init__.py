"""Image models: what an image, or each of its pixels, shows.

Experiments of images come in here. It stands on the public parts of the engine alone, as a user's
task does.
"""

from deqjax.tasks.vision._config import ImageNetwork, Images
from deqjax.tasks.vision._overlays import write_overlays
from deqjax.tasks.vision._task import VisionTask

__all__ = ["ImageNetwork", "Images", "VisionTask", "write_overlays"]

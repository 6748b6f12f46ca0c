"""Sizes that are counted from the data: a shape may leave them open, a model may not."""

import dataclasses
import json
import re

import jax
import pytest
from flax import nnx

from deqjax._fields import FieldError, check_fields, read_fields
from deqjax.models import (
    MDEQ,
    DEQTransformerLM,
    DEQTrellisNetLM,
    LanguageShape,
    MDEQShape,
    ResDEQ,
    ResidualShape,
    ResNet,
    SolverSettings,
    TransformerShape,
    TransformerXL,
)

VOCABULARY = "vocabulary is not known; give the number of tokens, 256 for bytes."
CLASSES = "classes is not known; give the number of classes to tell apart, 10 for CIFAR-10."
CHANNELS = (
    "input_channels is not known; give the number of channels of the images, 3 for colors, 1 for "
    "gray."
)
TOKENS = TransformerShape(vocabulary=5, length=2, width=4, heads=1, hidden=4)
CLASSIFIER = MDEQShape(
    channels=(4, 4),
    groups=2,
    expansion=1,
    head_channels=(2, 2),
    final_channels=4,
    classes=3,
    input_channels=1,
)
SEGMENTER = dataclasses.replace(CLASSIFIER, task="segmentation", head_channels=())
RESIDUAL = ResidualShape(channels=(4,), groups=2, classes=3, input_channels=1)
CONTRACTIVE = dataclasses.replace(RESIDUAL, contraction=0.9)

SETTINGS = SolverSettings()

LANGUAGE = {
    "transformer": (lambda shape, rngs: DEQTransformerLM(shape, SETTINGS, rngs=rngs), TOKENS),
    "trellisnet": (
        lambda shape, rngs: DEQTrellisNetLM(shape, SETTINGS, rngs=rngs),
        LanguageShape(vocabulary=5, length=2, width=4),
    ),
    "xl": (lambda shape, rngs: TransformerXL(shape, 1, rngs=rngs), TOKENS),
}
IMAGES = {
    "classifier": (MDEQ, CLASSIFIER),
    "segmenter": (MDEQ, SEGMENTER),
    "resdeq": (ResDEQ, RESIDUAL),
    "contractive": (ResDEQ, CONTRACTIVE),
    "resnet": (lambda shape, rngs: ResNet(shape, 1, rngs=rngs), RESIDUAL),
}
MODELS = LANGUAGE | IMAGES
MISSING = [
    *((name, "vocabulary", VOCABULARY) for name in LANGUAGE),
    *((name, "classes", CLASSES) for name in IMAGES),
    *((name, "input_channels", CHANNELS) for name in IMAGES),
]
OPEN = [TransformerShape(), LanguageShape(), MDEQShape(), ResidualShape()]
kinds = pytest.mark.parametrize("shape", OPEN, ids=lambda shape: type(shape).__name__)


@pytest.mark.parametrize(("name", "size", "sentence"), MISSING)
def test_a_model_of_an_unknown_size_is_refused_before_anything_is_drawn(name, size, sentence):
    build, shape = MODELS[name]
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        build(dataclasses.replace(shape, **{size: None}), rngs=rngs)
    assert rngs["default"].count[...] == 0


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_has_as_many_tokens_as_its_shape_says(name):
    build, shape = MODELS[name]
    model = nnx.eval_shape(lambda: build(shape, rngs=nnx.Rngs(0)))
    assert shape.tokens == 5
    assert model.embedding.clusters.vocabulary == model.softmax.clusters.vocabulary == 5


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_model_has_the_classes_and_channels_that_its_shape_says(name):
    build, shape = MODELS[name]

    def logits_of(images):
        return build(shape, rngs=nnx.Rngs(0))(images).logits

    logits = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((2, 8, 8, 1), "float32"))
    assert (shape.logits, shape.image_channels) == (3, 1)
    assert logits.shape[-1] == 3
    with pytest.raises(ValueError, match=r"images must be \(batch, height, width, 1\)"):
        jax.eval_shape(logits_of, jax.ShapeDtypeStruct((2, 8, 8, 3), "float32"))


@kinds
def test_a_shape_leaves_them_open_and_is_stored_so(shape):
    check_fields(shape)
    stored = json.loads(json.dumps(dataclasses.asdict(shape)))
    assert read_fields(type(shape), stored) == shape


@kinds
@pytest.mark.parametrize("value", [0, "10", 10**9])
def test_what_is_no_size_is_refused_by_name(shape, value):
    size = "vocabulary" if isinstance(shape, LanguageShape) else "input_channels"
    with pytest.raises(FieldError, match=f"^{size} must be "):
        check_fields(dataclasses.replace(shape, **{size: value}))


def test_the_published_small_model_has_ten_classes_of_color_images():
    shape = MDEQShape(classes=10, input_channels=3)
    model = nnx.eval_shape(lambda: MDEQ(shape, rngs=nnx.Rngs(0)))
    assert model.head.classifier.kernel.shape == (200, 10)
    assert model.stem.layers[0].weight.kernel.shape == (3, 3, 3, 24)

"""A folder that holds a converted model: its shape as JSON, its arrays by Orbax."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx

from deqjax._fields import FieldError, read_fields
from deqjax.convert._attractor_config import check_attractor_config
from deqjax.convert._blank import blank
from deqjax.convert._checkpoint import read_tensors
from deqjax.convert._errors import ConversionError
from deqjax.convert._parameters import variables_of
from deqjax.convert._reasoner_config import check_reasoner_config
from deqjax.convert._source import find_source
from deqjax.convert._wrappers import without_wrappers
from deqjax.convert.attractor import convert_attractor, is_attractor
from deqjax.convert.deq_transformer import convert_deq_transformer, published_settings
from deqjax.convert.mdeq import convert_mdeq
from deqjax.convert.reasoner import convert_reasoner, is_reasoner
from deqjax.models import (
    MDEQ,
    AttractorLM,
    AttractorShape,
    DEQTransformerLM,
    MDEQShape,
    Reasoner,
    ReasonerShape,
    SolverSettings,
    TransformerShape,
)

_MODEL, _PARAMETERS = "model.json", "parameters"
# what Orbax and TensorStore were seen to raise on missing and damaged files
_UNREADABLE = (ValueError, LookupError, OSError)

Converted = AttractorLM | DEQTransformerLM | MDEQ | Reasoner
"""A model that a published checkpoint can become."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    model: Literal["attractor", "deq_transformer", "mdeq", "reasoner"]


@dataclasses.dataclass(frozen=True)
class _Attractor(_Kind):
    shape: AttractorShape
    solver: SolverSettings


@dataclasses.dataclass(frozen=True)
class _Transformer(_Kind):
    shape: TransformerShape
    solver: SolverSettings


@dataclasses.dataclass(frozen=True)
class _MDEQ(_Kind):
    shape: MDEQShape
    solver: SolverSettings


@dataclasses.dataclass(frozen=True)
class _Reasoner(_Kind):
    shape: ReasonerShape
    solver: SolverSettings


_Described = _Attractor | _Transformer | _MDEQ | _Reasoner
_DESCRIBED: dict[str, type[_Described]] = {
    "attractor": _Attractor,
    "deq_transformer": _Transformer,
    "mdeq": _MDEQ,
    "reasoner": _Reasoner,
}


def convert_checkpoint(
    checkpoint: Path | str, config: Path | str | None, folder: Path | str
) -> Converted:
    """Convert a published checkpoint and write the model into a folder.

    Args:
        checkpoint: a file of ``torch.save`` (.pth, .pt, .bin) or safetensors; a folder with such a
            file, or the parts of one, and a config.json; or the name of such a folder on the
            Hugging Face hub, "owner/name".
        config: a JSON file with the options of [`deqjax.convert.TransformerConfig`][],
            [`deqjax.convert.MDEQConfig`][], [`deqjax.convert.AttractorConfig`][] or
            [`deqjax.convert.ReasonerConfig`][]; None is the folder's config.json.
        folder: created; must not hold anything.

    Raises:
        ConversionError: a file cannot be read, they do not fit each other, or the folder is taken.
    """
    _refuse_taken(Path(folder))
    model, settings = _read(checkpoint, config)
    save_converted(model, settings, folder)
    return model


def read_model(checkpoint: Path | str, config: Path | str | None = None) -> Converted:
    """The model of a published checkpoint and its configuration, as `convert_checkpoint`."""
    return _read(checkpoint, config)[0]


def _read(checkpoint: Path | str, config: Path | str | None) -> tuple[Converted, SolverSettings]:
    """With how it finds its equilibrium."""
    source = find_source(checkpoint, config)
    options = _read_json(source.config)
    state: dict[str, np.ndarray] = {}
    for part in source.weights:
        state |= read_tensors(part)
    state = without_wrappers(state)  # of all parts: one by itself may have more in common
    if is_attractor(state, options):
        settings = check_attractor_config(options).settings()
        return convert_attractor(state, options, settings), settings
    if is_reasoner(state, options):
        settings = check_reasoner_config(options).settings()
        return convert_reasoner(state, options, settings), settings
    if "channels" in options or any(key.startswith("fullstage.") for key in state):
        return convert_mdeq(state, options), SolverSettings()
    settings = published_settings()
    return convert_deq_transformer(state, options, settings), settings


def save_converted(model: Converted, settings: SolverSettings, folder: Path | str) -> None:
    """Write a model into a folder that does not exist or is empty.

    Raises:
        ConversionError: the folder holds something, or cannot be written to.
    """
    import orbax.checkpoint as ocp

    path = Path(folder).absolute()
    _refuse_taken(path)
    described = _described(model, settings)
    description = pydantic.TypeAdapter(type(described)).dump_json(described, indent=1)
    arrays = {name: np.asarray(variable[...]) for name, variable in variables_of(model).items()}
    try:
        path.mkdir(parents=True, exist_ok=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path / _PARAMETERS, arrays)
        # last, so that a folder with a description is whole
        (path / _MODEL).write_bytes(description)
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be written to ({error.strerror or error}); choose another --out."
        ) from error


def load_converted(folder: Path | str) -> Converted:
    """The model that [`deqjax.convert.save_converted`][] wrote, bit for bit, in evaluation mode.

    Raises:
        ConversionError: the folder holds no converted model, or a damaged one.
    """
    path = Path(folder).absolute()
    if not (path / _MODEL).is_file():
        raise ConversionError(
            f"{folder} holds no converted model (no {_MODEL}); make one with deqjax convert."
        )
    values = _read_json(path / _MODEL)
    try:
        kind = read_fields(_Kind, values).model
        found = read_fields(_DESCRIBED[kind], values)
    except FieldError as error:
        raise ConversionError(
            f"{path / _MODEL} does not fit: {error} Convert the checkpoint again."
        ) from error
    model = blank(lambda: _build(found))
    _fill(variables_of(model), _read_arrays(path / _PARAMETERS), path)
    nnx.Module.eval(model)
    return model


def _described(model: Converted, settings: SolverSettings) -> _Described:
    match model:
        case AttractorLM():
            return _Attractor("attractor", model.shape, settings)
        case MDEQ():
            return _MDEQ("mdeq", model.shape, settings)
        case Reasoner():
            return _Reasoner("reasoner", model.shape, settings)
        case DEQTransformerLM():
            return _Transformer("deq_transformer", model.shape, settings)


def _build(found: _Described) -> Converted:
    match found:
        case _Attractor():
            return AttractorLM(found.shape, found.solver, rngs=nnx.Rngs(0))
        case _MDEQ():
            return MDEQ(found.shape, found.solver, rngs=nnx.Rngs(0))
        case _Reasoner():
            return Reasoner(found.shape, found.solver, rngs=nnx.Rngs(0))
        case _Transformer():
            return DEQTransformerLM(found.shape, found.solver, rngs=nnx.Rngs(0))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays: dict[str, np.ndarray] = checkpointer.restore(path)
    except _UNREADABLE as error:
        raise ConversionError(
            f"the parameters in {path} are missing or damaged; convert the checkpoint again."
        ) from error
    return arrays


def _fill(
    variables: Mapping[str, nnx.Variable], arrays: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Set the variables; compared first, because a converted folder may be of another version."""
    here = {name: variable.get_raw_value().shape for name, variable in variables.items()}
    there = {name: array.shape for name, array in arrays.items()}
    wrong = [name for name in here | there if here.get(name) != there.get(name)]
    if wrong:
        raise ConversionError(
            f"the parameters in {folder} do not fit its {_MODEL} ({', '.join(wrong)}); convert the "
            "checkpoint again."
        )
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(arrays[name]))


def _read_json(path: Path | str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be read ({error.strerror}); name a JSON file."
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, not even text, or brackets for ever
        raise ConversionError(f"{path} is not JSON ({error}); put it right.") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} holds no JSON object of options; put it right.")
    return values


def _refuse_taken(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConversionError(f"{path} exists already and is not empty; choose another --out.")

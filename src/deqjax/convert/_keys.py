"""Bookkeeping of a conversion: every key is used once, every parameter is set once."""

import difflib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from deqjax.convert._errors import ConversionError
from deqjax.convert._parameters import variables_of
from deqjax.convert._wrappers import odd_names
from deqjax.nn import ConvWeight, Weight

_KINDS = {"f": "floating point", "i": "integer"}
# PyTorch's axes in our order: of a linear layer, of a convolution
_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
_MOST_NEAREST = 10  # names whose nearest is looked for: of a thousand it would take a minute


class Ledger:
    """Moves the arrays of a state dict into parameters and remembers what went where.

    Nothing is raised before `close`, so that one error lists everything that does not fit.

    Args:
        state: key to array, as [`deqjax.convert.read_state_dict`][] returns it.
    """

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self._state = state
        self._unused = dict.fromkeys(state)
        self._source: dict[int, str] = {}  # id of a parameter -> the key that it was set from
        self._missing: list[str] = []
        self._twice: list[str] = []
        self._wrong: list[str] = []

    def move(self, parameter: nnx.Variable, *names: str, transposed: bool = False) -> None:
        """Set a parameter, or a running statistic, from the key that has one of these names.

        Args:
            parameter: an array of one or two axes, or the four of a convolution's kernel.
            names: the names under which such a key is known; one of them is there.
            transposed: PyTorch keeps (out, in) where the parameter is (in, out), and (out, in,
                height, width) where it is (height, width, in, out).
        """
        array = self._take(names, parameter, transposed)
        if array is None:
            return
        if id(parameter) in self._source:
            self._twice.append(f"{names[0]} and {self._source[id(parameter)]}")
        self._source[id(parameter)] = names[0]
        parameter.set_value(jnp.asarray(array, parameter.get_raw_value().dtype))

    def move_weight(self, weight: Weight | ConvWeight, name: str) -> None:
        """Set a layer's w, or the g and v of w = g v / ||v||, by their older or newer names.

        Args:
            weight: of a linear layer or a convolution, with or without weight norm.
            name: of the module that has it.
        """
        if weight.gain is None:
            self.move(weight.kernel, f"{name}.weight", transposed=True)
            return
        gain, direction = weight_norm_names(name)
        self.move(weight.gain, *gain)
        self.move(weight.kernel, *direction, transposed=True)

    def compare(self, parameter: nnx.Param, *names: str, option: str) -> None:
        """Check that a key holds what a parameter was set from: a tied weight is stored twice.

        Args:
            parameter: set before.
            names: as for `move`.
            option: of the configuration, that ties the two.
        """
        array = self._take(names, parameter, transposed=False)
        if array is None or id(parameter) not in self._source:
            return
        if not np.array_equal(array, parameter[...], equal_nan=True):
            self._wrong.append(
                f"{names[0]} differs from {self._source[id(parameter)]}, to which {option} ties it "
                f"(by up to {np.max(np.abs(array - parameter[...])):.2g}; untie them to keep both)"
            )

    def copy(self, source: nnx.Param, parameter: nnx.Param) -> None:
        """Set a parameter to what another one, moved before, holds."""
        if id(source) in self._source:
            self._source[id(parameter)] = self._source[id(source)]
            parameter.set_value(source[...])

    def constant(self, name: str, expected: np.ndarray) -> None:
        """Check a key that holds no weights but something known, as exactly as it was stored."""
        array = self._array((name,), [expected.shape])
        if array is None:
            return
        if not np.allclose(array, expected, rtol=max(1e-5, _rounding(array)), atol=0):
            worst = np.max(np.abs(array / expected - 1))
            self._wrong.append(f"{name} differs from its formula (by up to {worst:.2g}, relative)")

    def ignore(self, name: str, shape: tuple[int, ...], kind: str = "f") -> None:
        """Use a key that has no part in what the model computes, if it is there.

        Args:
            name: of the key.
            shape: that it must have.
            kind: of its dtype, as NumPy names it: "f" floating point, "i" integer.
        """
        if name in self._unused:
            self._array((name,), [shape], kind)

    def close(self, model: nnx.Module) -> None:
        """Raise a ConversionError that lists all that is missing, unknown or wrong.

        Args:
            model: every `flax.nnx.Param` and every running statistic in it must have been
                set.
        """
        mixed = odd_names(self._state)
        if mixed is not None and self._missing:
            prefix, odd = mixed
            raise ConversionError(
                f'most of the {len(self._state)} keys begin with "{prefix}", as a wrapper of '
                f"PyTorch's writes them, but not these: {', '.join(odd)}. Save the state dict of "
                "the wrapped model alone."
            )
        problems = []
        if self._missing:
            problems.append(f"missing keys: {', '.join(self._missing_and_nearest())}")
        if self._unused:
            problems.append(f"unknown keys: {', '.join(self._unused)}")
        problems += self._wrong
        problems += [f"{names} both set one parameter" for names in self._twice]
        # a parameter whose key is missing or wrong is listed by its key already
        unset = [] if self._missing or self._wrong else self._unset(model)
        if unset:
            problems.append(f"parameters that no key sets: {', '.join(unset)}")
        if problems:
            raise ConversionError(
                f"the checkpoint does not fit the configuration: {'; '.join(problems)}. Compare "
                "the configuration with the options that the model was trained with."
            )

    def _missing_and_nearest(self) -> list[str]:
        """The missing keys; beside the first ones, what the checkpoint has that is most like it."""
        told = list(self._missing)
        for place, name in enumerate(told[:_MOST_NEAREST]):
            for nearest in difflib.get_close_matches(name, self._unused, n=1):
                told[place] = f"{name} (nearest: {nearest})"
        return told

    def _unset(self, model: nnx.Module) -> list[str]:
        found = variables_of(model)
        return [name for name, parameter in found.items() if id(parameter) not in self._source]

    def _take(
        self, names: Sequence[str], parameter: nnx.Variable, transposed: bool
    ) -> np.ndarray | None:
        shape = tuple(parameter.get_raw_value().shape)  # a blank parameter has no array yet
        order = _AXES[len(shape)] if transposed else tuple(range(len(shape)))
        theirs = tuple(shape[axis] for axis in np.argsort(order))
        # a convolution of kernel size 1 has one axis more than a linear layer, a gain up to three
        array = self._array(
            names, [theirs + (1,) * extra for extra in range(max(1, 5 - len(shape)))]
        )
        return None if array is None else array.reshape(theirs).transpose(order)

    def _array(
        self, names: Sequence[str], shapes: Sequence[tuple[int, ...]], kind: str = "f"
    ) -> np.ndarray | None:
        """The array under one of the names, if it is of this kind and of one of the shapes."""
        name = next((name for name in names if name in self._unused), None)
        if name is None:
            self._missing.append(names[0])
            return None
        del self._unused[name]
        array = self._state[name]
        if array.dtype.kind != kind:
            self._wrong.append(f"{name} is {array.dtype}, not {_KINDS[kind]}")
            return None
        if array.shape not in shapes:
            self._wrong.append(f"{name} has shape {array.shape} instead of {shapes[0]}")
            return None
        return array


def weight_norm_names(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Of a module's g and v: torch.nn.utils.weight_norm's names, and those of parametrizations."""
    newer = f"{name}.parametrizations.weight.original"
    return (f"{name}.weight_g", f"{newer}0"), (f"{name}.weight_v", f"{newer}1")


def _rounding(array: np.ndarray) -> float:
    """How far apart, relatively, neighbours are in the type of 16 bits that these numbers are of.

    They are in float32 by now, but numbers that such a type holds without a change came from it. 0
    if neither does.
    """
    for dtype in (ml_dtypes.bfloat16, np.float16):
        with np.errstate(over="ignore"):
            rounded = array.astype(dtype).astype(array.dtype)
        if np.array_equal(array, rounded):
            return float(ml_dtypes.finfo(dtype).eps)
    return 0.0

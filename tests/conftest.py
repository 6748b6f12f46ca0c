"""Set up for every test: devices and compilation before any backend starts, precision by fixture.

Compiling takes most of the suite's time. So XLA and LLVM do not optimize here (a test of rounding
asks for it), and programs that several tests, workers or child processes share are compiled once
and kept in a folder of this very run.
"""

import gc
import importlib.util
import os
import pathlib
import shutil
import signal
import tempfile

import jax
import pytest

_CACHE = "JAX_COMPILATION_CACHE_DIR"
# in the environment, so that child processes have them too
_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 13):  # a flag that XLA does not know ends the process
    _FLAGS += [
        "--xla_cpu_opt_preset=FAST_COMPILE",
        # JAX 0.10 emits LLVM's language twice as fast without MLIR; later ones ignore this
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters,xla_cpu_disable_tiled_emitter",
    ]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tracing makes many objects that stay: look for garbage less often.
gc.set_threshold(50_000, 20, 20)
# Four virtual devices for pmap and shard_map; arrays still go to the first one by default.
jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config):
    # A shell's background job has Ctrl-C ignored, and nohup a closed terminal; children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if not hasattr(config, "workerinput"):  # xdist's workers have the controller's environment
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="deqjax-tests-")
    jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # JAX does not write a program's file at once: who reads half of it compiles the program itself
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


# Files that take long for the number of their tests: first, so that none is left for the end, when
# the other worker has nothing more to do.
_LONG = (
    "test_04_build_your_own_deq",
    "test_02_gradients",
    "test_03_jacobian_regularization",
    "test_05_inspect_a_run",
    "test_06_thinking_longer",
    "test_01_fixed_points",
    "test_commands",
    "test_snippets",
    "test_topology",
    "test_training_loop",
    "test_vision",
    "test_cli",
    "test_adaptive_softmax",
    "test_benchmarks",
    "test_mdeq",
    "test_experiments",
    "test_definitions",
    "test_properties",
    "test_check_gradient",
    "test_resdeq",
    "test_golden",
    "test_golden_mdeq",
    "test_transformer_lm",
    "test_equilibrium_models",
    "test_workers",
    "test_guards",
    "test_estimate",
    "test_overlays",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in _LONG)
    if importlib.util.find_spec("libtpu") is None:
        absent = pytest.mark.skip(reason="libtpu, which compiles for TPUs, is absent")
        for item in items:
            if item.get_closest_marker("libtpu"):
                item.add_marker(absent)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


def pytest_runtest_teardown(item, nextitem):
    """Drop compiled programs before they fill the process's table of memory maps (Linux: 65,530).

    Each holds some maps as long as it lives; without room for more the compiler aborts.
    """
    maps = pathlib.Path("/proc/self/maps")
    if nextitem is not None and nextitem.module is not item.module and maps.exists():
        with maps.open("rb") as lines:
            if sum(1 for _ in lines) > 20_000:
                jax.clear_caches()
                gc.collect()


@pytest.fixture
def float64():
    """64-bit arrays by default, for comparisons with LAPACK."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """No implicit casts and no implicit broadcasts over new axes: the core must survive both."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

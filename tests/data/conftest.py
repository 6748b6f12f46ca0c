from pathlib import Path

import numpy as np
import pytest

from deqjax.data.text import _stdlib_corpus

UNWANTED = {
    "site-packages/numpy.py": b"x = 1\n",
    "package/test/test_module.py": b"x = 1\n",
    "package/tests/data.py": b"x = 1\n",
    "idlelib/idle_test/mock.py": b"x = 1\n",
    "__pycache__/cached.py": b"x = 1\n",
    "config-3.12-x86_64-linux-gnu/python-config.py": b"x = 1\n",
    "_sysconfigdata__linux_x86_64-linux-gnu.py": b"x = 1\n",
    "empty.py": b"",
    "latin1.py": b"# caf\xe9\n",
    "notes.txt": b"not Python\n",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A tiny standard library in place of the real one: the files that belong to the corpus."""
    root = tmp_path / "library"
    wanted = {f"module{i:02}.py": f"value = {i}\n".encode() * (i + 1) for i in range(60)}
    wanted["package/unicode.py"] = "π = 3.14159\n".encode()
    for path, content in {**wanted, **UNWANTED}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    monkeypatch.setattr(_stdlib_corpus, "standard_library", lambda: root)
    return wanted


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """231 bytes without repetition: 23 windows of length 10, told apart by their first byte."""
    return np.arange(231, dtype=np.uint8)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts beside the repository, where there is one."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data with real texts beside this checkout")
    return folder

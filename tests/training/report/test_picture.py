import pytest

from deqjax.training._workdir import Workdir, WorkdirError, write_config
from deqjax.training.records._metrics import MetricsWriter
from deqjax.training.report._picture import save_run_picture
from sample_records import make_records


@pytest.mark.parametrize("count", [40, 3000])
def test_saved_picture_has_the_size_of_a_readme(tmp_path, count):
    workdir = Workdir(tmp_path)
    write_config(workdir, "tiny", {}, {})
    with MetricsWriter(workdir, None) as writer:
        for record in make_records(count):
            step, split = record.pop("step"), record.pop("split")
            writer.write(step, split, record)
    content = save_run_picture(workdir).read_bytes()
    size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    assert content.startswith(b"\x89PNG")
    assert size == (1200, 750)
    assert len(content) < 300_000


def test_saving_needs_a_run(tmp_path):
    with pytest.raises(WorkdirError, match="There is no run in"):
        save_run_picture(Workdir(tmp_path))


def test_full_disk_is_told_in_a_sentence(tmp_path, file_size_limit):
    workdir = Workdir(tmp_path)
    write_config(workdir, "tiny", {}, {})
    file_size_limit(1000)
    with pytest.raises(WorkdirError, match=r"run.png cannot be written \(File too large\)"):
        save_run_picture(workdir)

"""The notations of XLA for groups of devices."""

import pytest

from deqjax.training.estimate._groups import devices_of_a_group


@pytest.mark.parametrize(
    ("written", "devices"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}, dimensions={0}", 3),
        ("channel_id=1, replica_groups=[2,4]<=[8], use_global_device_ids=true", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['data'=16,'model'=2] {'data'}, dimensions={2}", 16),
        ("replica_groups=mesh['data'=4,'model'=2] {'data','model'}", 8),
        ("source_target_pairs={{0,1},{1,0}}", None),
        ("replica_groups={}", None),
    ],
)
def test_the_size_of_a_group_is_read(written, devices):
    assert devices_of_a_group(written) == devices

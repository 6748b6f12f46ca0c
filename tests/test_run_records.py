import pytest

from deqjax._records import is_rollback, loss_unit


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("the loss was NaN; rolled back to step 3", True),
        ("Rollback to step 3", True),
        ("the roll of drums at the back", False),
        ("resumed after step 3", False),
    ],
)
def test_rollbacks_are_told_from_other_events(text, is_one):
    assert is_rollback({"step": 1, "split": "event", "event": text}) == is_one


BITS, NATS = ("bits_per_byte", "bits per byte"), ("loss", "")


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], NATS),
        ([{"loss": 1.0, "tokens_per_second": 3.0}], NATS),
        ([{"bits_per_byte": 2.0, "loss": 1.4}], BITS),
        ([{"bits_per_byte": 2.0, "loss": 1.4}, {"forward_steps": 3.0}], BITS),
        ([{"bits_per_byte": 2.0, "loss": 1.4}, {"loss": 1.4}], NATS),
    ],
)
def test_a_loss_has_the_unit_that_all_records_give(records, told):
    assert loss_unit({"step": 1, "split": "train", **each} for each in records) == told

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


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"bits_per_byte": 2.0, "loss": 1.4}, ("bits_per_byte", "bits per byte")),
        ({"loss": 1.0, "images_per_second": 3.0}, ("loss", "nats per label")),
        ({"loss": 1.0, "top1": 0.5}, ("loss", "nats per label")),
        ({"loss": 1.0, "mean_iou": 0.5}, ("loss", "nats per label")),
        ({"loss": 1.0, "tokens_per_second": 3.0}, ("loss", "nats per token")),
        ({"loss": 1.0, "perplexity": 3.0}, ("loss", "nats per token")),
        ({"loss": 1.0, "bigram_loss": 3.0}, ("loss", "nats per token")),
        ({"loss": 1.0, "rows_per_second": 3.0}, ("loss", "")),
    ],
)
def test_the_unit_of_a_loss_is_told_by_what_stands_beside_it(metrics, told):
    assert loss_unit([{"step": 1, "split": "train", **metrics}]) == told

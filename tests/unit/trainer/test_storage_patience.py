"""How long requests ride out a store that does not answer: botocore's waits are its own business, and have changed before."""

from __future__ import annotations

from botocore.retries.standard import ExponentialBackoff, RetryContext

from finetune_trainer.storage.object_store import DEFAULT_MAX_ATTEMPTS


def test_the_waits_between_the_attempts_of_a_request_add_up_to_half_a_minute() -> None:
    # Each wait is a random share of its longest: half of it on average.
    waits = ExponentialBackoff(random=lambda: 0.5)

    seconds = sum(
        waits.delay_amount(RetryContext(attempt_number=attempt)) for attempt in range(1, DEFAULT_MAX_ATTEMPTS)
    )

    assert 25 <= seconds <= 45

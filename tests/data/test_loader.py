"""Batches are a function of the seed and the iteration, whatever the workers, the start and the ranks."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from paddleseg_slim.data import FashionScenes, Loader
from paddleseg_slim.data.loader import collate
from paddleseg_slim.data.transforms import (
    Normalize,
    RandomDistort,
    RandomHorizontalFlip,
    RandomNoise,
    RandomPaddingCrop,
)
from paddleseg_slim.errors import UserError


def scenes(count: int = 10) -> FashionScenes:
    chain = [RandomPaddingCrop([32, 32]), RandomHorizontalFlip(), RandomDistort(), RandomNoise(), Normalize()]
    return FashionScenes(chain, size=48, num_samples=count, seed=1)


def take(count: int, **options) -> list[dict]:
    return list(islice(Loader(scenes(), options.pop("batch_size", 2), seed=4, **options), count))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and (a["img"] == b["img"]).all() and a["name"] == b["name"]


def test_workers_do_not_change_a_byte():
    alone = take(12)
    for workers in (1, 3):
        assert all(same(a, b) for a, b in zip(alone, take(12, num_workers=workers)))
    assert alone[0]["img"].shape == (2, 3, 32, 32) and alone[0]["label"].shape == (2, 32, 32)


def test_a_resumed_run_goes_on_where_the_other_stopped():
    whole = take(13)
    assert all(same(a, b) for a, b in zip(whole[7:], take(6, start_iter=7, num_workers=2)))


def test_an_epoch_takes_every_sample_once_and_the_next_in_another_order():
    batches = take(10)
    first = [name for batch in batches[:5] for name in batch["name"]]
    second = [name for batch in batches[5:] for name in batch["name"]]
    assert len(set(first)) == 10
    assert [int(name[-6:]) % 10 for name in first] != [int(name[-6:]) % 10 for name in second]
    assert sorted(int(name[-6:]) for name in second) == list(range(10, 20))  # new scenes in epoch 1


def test_ranks_share_the_global_batch_of_one_process():
    whole = take(4, batch_size=4)
    parts = [take(4, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(4):
        assert (whole[step]["img"] == np.concatenate([part[step]["img"] for part in parts])).all()


@pytest.mark.parametrize("world", [1, 3])
def test_the_last_batch_is_left_out_or_smaller(world):
    for drop_last in (True, False):
        loaders = [Loader(scenes(11), 3, drop_last=drop_last, rank=rank, world_size=world) for rank in range(world)]
        counts = [[len(loader.keys(step)) for step in range(loader.batches_per_epoch)] for loader in loaders]
        assert len({len(count) for count in counts}) == 1
        taken = {key for loader in loaders for step in range(loader.batches_per_epoch) for key in loader.keys(step)}
        assert len(taken) == sum(map(sum, counts)) == (11 if world == 1 and not drop_last else 9)


def test_the_order_without_shuffling():
    names = [name for batch in take(5, shuffle=False) for name in batch["name"]]
    assert names == sorted(names)


def test_an_error_in_a_worker_reaches_the_caller_and_ends_the_threads():
    import threading

    class Broken:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, key):
            if key[1] == 3:
                raise UserError("The file x.png cannot be read.", "Replace it.")
            return {"img": np.zeros(3, np.float32)}

    with pytest.raises(UserError, match=r"x\.png"):
        list(islice(Loader(Broken(), 2, num_workers=2), 20))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match="10 samples, fewer than a batch of 16"):
        Loader(scenes(), 16)
    with pytest.raises(UserError, match="4 devices"):
        Loader(scenes(), 4, world_size=4)
    with pytest.raises(UserError, match="num_workers is -1"):
        Loader(scenes(), 2, num_workers=-1)
    small, large = ({"img": np.zeros((3, side, side)), "name": f"{side}.png"} for side in (4, 5))
    with pytest.raises(UserError, match=r"5\.png has the shape \[3, 5, 5\]"):
        collate([small, large])

"""Streams of random numbers, lent to torch's global generators."""

import threading

import pytest
import torch

from skqlvm.engine.randomness import Stream

CPU = torch.device("cpu")


def drawn(seed, n=3):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def test_stream_gives_the_numbers_of_its_seed_and_goes_on_from_there():
    stream, expected = Stream(3, CPU), drawn(3, 6)
    found = []
    for _ in range(2):
        with stream.lent():
            found.append(torch.rand(3))
        torch.rand(5)
    assert torch.equal(torch.cat(found), expected)


def test_global_generator_is_as_it_was_even_after_an_error():
    before, stream = torch.get_rng_state(), Stream(3, CPU)

    def fails():
        torch.rand(3)
        raise KeyError

    with pytest.raises(KeyError):
        stream.is_drawn_by(fails)
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_of_threads_do_not_mix():
    streams = [Stream(seed, CPU) for seed in range(4)]
    found = [[] for _ in streams]

    def draw(i):
        for _ in range(200):
            with streams[i].lent():
                found[i].append(torch.rand(1))

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, numbers in enumerate(found):
        assert torch.equal(torch.cat(numbers), drawn(i, 200))


def test_stream_knows_who_draws_from_it():
    stream, x = Stream(0, CPU), torch.ones(5)
    own = torch.Generator().manual_seed(0)
    assert stream.is_drawn_by(torch.nn.Dropout(0.5), x)
    assert not stream.is_drawn_by(torch.nn.Dropout(0.5).eval(), x)
    assert not stream.is_drawn_by(lambda x: torch.rand(5, generator=own) + x, x)


def test_stream_of_an_accelerator_restores_its_generator(device):
    where = torch.device(device)
    before = torch.rand(1, device=where)  # starts the device
    stream = Stream(1, where)
    with stream.lent():
        first = torch.rand(3, device=where)
    again = Stream(1, where)
    with again.lent():
        assert torch.equal(torch.rand(3, device=where), first)
    assert before.device.type == where.type

"""The races of matrix methods, on small matrices."""

import torch

from benchmarks.matrices import PERIOD, Race, Racer, main, ours, products, races, run, table


def test_a_race():
    racers = [Racer("products", products), Racer("Muon", ours("Muon", ns_dtype=torch.float32))]
    race = Race("small", [(4, 8), (8, 4), (4, 4)], racers, periods=2)
    said = []
    run(race, said.append)
    assert said == ["small: done"]
    for racer in racers:
        assert len(racer.seconds) == 1 + 2 * PERIOD
        racer.seconds = [100.0, *[1.0] * PERIOD, *[2.0] * (PERIOD - 1), 8.0]
        assert racer.periods() == [10.0, 26.0] and racer.worst() == 8 / 1.5
    text = table([race])
    assert "| small | Muon | 1.8 s | 1.00 (1.00–1.00) | 5.33 |" in text


def test_every_racer_can_start():
    torch.manual_seed(0)
    for race in races():
        for racer in race.racers:
            p = torch.randn(6, 6).requires_grad_()
            p.grad = torch.randn(6, 6)
            racer.make([p])()


def test_the_command_names_what_it_runs(capsys):
    main(["nothing has this name"])
    assert "- Versions: Python" in capsys.readouterr().out

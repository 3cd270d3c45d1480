"""Random chains, problems, and hands that reach in between the steps, and what must hold for all of them.

`python -m tests.fuzz --seed 0 --count 1000` draws a thousand and prints how many hold; `--seed N --count 1 --show`
has the chain of one seed and what is wrong with it.
"""

"""Speed, measured: never asserted by a test.

    python -m benchmarks.ranking     ours beside its peers, and beside a plain read of the same bytes
    python -m benchmarks.recommend   where the time of one call of ``Recommender.recommend`` goes
    python -m benchmarks.pictures    time against catalogue size, and against recall
    python -m pytest benchmarks      pytest-benchmark: the backends of the kernel, and ``recommend``

The peers are the extra ``bench``, beside those that ``scripts/setup`` installs:

    pip install -c constraints.txt -e '.[bench]'
"""
